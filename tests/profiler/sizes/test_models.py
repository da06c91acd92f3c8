from typing import get_args

import numpy as np
import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.op_times.protocol import MatmulPart, Operator
from shardwright.profiler.probes.compute.layer_check import one_rank
from shardwright.profiler.sizes.models import Usage
from shardwright.profiler.timing.probe import Sizes
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.training import Precision, TrainingSpec
from tests.catalog.huggingface.small_configs import LLAMA, NEMOTRON, SMALL_OPT, read
from tests.costmodel.fakes import round_cluster, small_experts, small_model
from tests.profiler.recording_times import RecordingTimes

_TRAINING = TrainingSpec(seq_len=128, global_batch=8, precision=Precision(compute="bf16"))
_OPT = SMALL_OPT | {"hidden_size": 64}
_MODELS = [
    small_model(),
    small_experts(),
    read(LLAMA),
    read(_OPT),
    read(NEMOTRON | {"hybrid_override_pattern": "M-*E"}),
]


def _asked(model: ModelSpec, micro_batch: int) -> RecordingTimes:
    """What the cost model asks the seam for, of every row."""
    times = RecordingTimes(node=round_cluster(nodes=1, devices_per_node=1).node)
    WorkModel(model, _TRAINING, times, one_rank(micro_batch)).rows()
    return times


@pytest.mark.parametrize("model", _MODELS, ids=lambda model: model.family)
def test_every_matmul_that_the_cost_model_asks_for_is_measured_at_its_very_shape(model: ModelSpec) -> None:
    parts: tuple[MatmulPart, ...] = get_args(MatmulPart)
    measured = {
        (part, *linear.sizes(part), float(linear.groups))
        for linear in Usage(model, _TRAINING, micro_batches=(2,)).linears()
        for part in parts
    }
    assert measured == _asked(model, 2).matmuls


@pytest.mark.parametrize("model", _MODELS, ids=lambda model: model.family)
def test_every_operator_that_the_cost_model_asks_for_is_measured_on_as_many_elements(model: ModelSpec) -> None:
    usage = Usage(model, _TRAINING, micro_batches=(2,))
    operators: tuple[Operator, ...] = get_args(Operator)
    measured = {
        (operator, backward, (at[0] + sum(at[2:])) * at[1])  # a table's gradient has its tokens' beside its rows
        for operator in operators
        for backward in (False, True)
        for at in usage.operators(operator, backward=backward)
    }
    # learned positions are part of the table that is one gradient for the cost model
    positions = model.positions + model.position_padding
    asked = {each for each in _asked(model, 2).operators if not (positions and each[:2] == ("embedding", True))}
    assert asked <= measured


def test_attention_is_measured_as_each_rank_holds_its_heads() -> None:
    usage = Usage(small_model(), _TRAINING, micro_batches=(1, 2), tp=(1, 2, 4, 8))
    found: set[Sizes] = {(b, 4.0 / tp, max(1.0, 2.0 / tp), 128.0, 16.0) for b in (1.0, 2.0) for tp in (1, 2, 4)}
    assert set(usage.attention()) == found
    assert usage.attention(latent=True) == []


def test_latent_heads_are_measured_apart() -> None:
    usage = Usage(load_model("deepseek-v2-lite"), _TRAINING, micro_batches=(1,))
    assert usage.attention() == []
    assert usage.attention(latent=True) == [(1.0, 16.0, 16.0, 128.0, 192.0)]


def test_recurrences_and_layers_without_attention_are_no_sizes_of_attention() -> None:
    usage = Usage(read(NEMOTRON | {"hybrid_override_pattern": "M-*"}), _TRAINING)
    assert usage.attention() == [(1.0, 4.0, 2.0, 128.0, 24.0)]
    assert usage.attention(latent=True) == []
    assert usage.head_size == 24
    assert Usage(read(NEMOTRON | {"hybrid_override_pattern": "M-"}), _TRAINING).head_size == 64


def test_an_embeddings_gradient_is_its_whole_table() -> None:
    usage = Usage(small_model(hidden=64), _TRAINING, micro_batches=(2,), tp=(1, 2, 3))
    assert usage.operators("embedding", backward=True) == [(1000.0, 64.0, 256.0), (500.0, 64.0, 256.0)]
    assert usage.operators("cross_entropy", backward=False) == [(256.0, 1000.0), (256.0, 500.0)]


def test_operators_that_the_model_has_not_are_not_measured_for_it() -> None:
    usage = Usage(read(_OPT), _TRAINING)
    assert usage.operators("eager_rmsnorm", backward=False) == []
    assert usage.operators("layernorm", backward=False) != []
    assert Usage(small_model(), _TRAINING).operators("column_sum", backward=True) == []


def test_optimizer_lists_are_the_models_and_its_shards() -> None:
    model = small_model(layers=4)
    (whole, tensors), *shards = Usage(model, _TRAINING).parameters()
    assert (whole, tensors) == (model.parameter_count, 4 * 9 + 3)
    assert [np.floor(whole / elements) for elements, _ in shards] == [8, 64]
