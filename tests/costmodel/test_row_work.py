"""Work of one layer and of the ends, worked out by hand with round operation times."""

import numpy as np
import pytest

from shardwright.costmodel import operators
from shardwright.costmodel.row_work import WorkModel
from shardwright.costmodel.stacks import named_stack
from shardwright.costmodel.tables import POLICIES
from shardwright.costmodel.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.costmodel.test_candidates import candidates

HIDDEN, SEQ, BATCH = 64, 128, 2
TOKENS = SEQ * BATCH
# q 64 x 64, k and v 64 x 32 each, output 64 x 64; gate, up and down 64 x 128 each
LAYER_WEIGHTS = 64 * 128 + 64 * 64 + 3 * 64 * 128


def work(*, tp: int = 1, attention: str = "flash", tied: bool = False, **degrees: int) -> WorkModel:
    training = TrainingSpec.parse(
        {"seq_len": SEQ, "global_batch": 8, "attention": attention, "precision": Precision()}, source="test"
    )
    chosen = candidates(tp=tp, micro_batch=BATCH, **degrees)
    return WorkModel(small_model(hidden=HIDDEN, tied=tied), round_cluster(), training, RoundTimes(), chosen)


def test_forward_and_backward_are_two_and_four_flops_per_weight_and_token() -> None:
    model = work()
    layer = model.layer(model.model.layer_classes[0])
    matmuls = 2 * LAYER_WEIGHTS * TOKENS * 1e-12
    # causal: a query sees (SEQ + 1) / 2 keys on average; scores and values are 2 flops each per key and element
    core = 2 * 2 * TOKENS * (SEQ + 1) / 2 * 64 * 1e-12
    assert layer.forward_seconds[0] == pytest.approx(matmuls + core)
    assert layer.backward_seconds[0] == pytest.approx(2 * matmuls + 2.5 * core)


OWN = named_stack("shardwright")


def test_unfused_attention_computes_every_key() -> None:
    fused, unfused = work(), work(attention="unfused")
    block = fused.model.layer_classes[0]
    extra = unfused.layer(block).forward_seconds - fused.layer(block).forward_seconds
    assert extra[0] == pytest.approx(2 * 2 * TOKENS * (SEQ - (SEQ + 1) / 2) * 64 * 1e-12)


def test_recompute_repeats_the_attention_core_or_the_whole_forward_with_its_communication() -> None:
    model = work(tp=4, sequence_parallel=1, attention="unfused")
    layer = model.layer(model.model.layer_classes[0])
    by_policy = dict(zip(POLICIES, layer.recompute_seconds_by_policy[0], strict=True))
    core = 2 * 2 * TOKENS * SEQ * 64 / 4 * 1e-12
    down = 2 * TOKENS * 2 * HIDDEN * HIDDEN / 4 * 1e-12  # nothing in the backward pass reads the layer's last output
    assert by_policy == pytest.approx({"none": 0.0, "selective": core, "full": layer.forward_seconds[0] - down})
    forward = layer.tensor_parallel_forward_seconds[0]
    assert layer.tensor_parallel_backward_seconds_by_policy[0].tolist() == [forward, forward, 2 * forward]


def test_a_fused_kernel_leaves_selective_recompute_nothing_to_do() -> None:
    model = work()
    layer = model.layer(model.model.layer_classes[0])
    assert layer.recompute_seconds_by_policy[0, 1] == 0
    assert layer.activation_bytes_by_policy[0, 1] == layer.activation_bytes_by_policy[0, 0]


def test_tensor_parallel_moves_the_hidden_states_twice_in_each_sublayer() -> None:
    sequence_parallel = work(tp=4, sequence_parallel=1)
    block = sequence_parallel.model.layer_classes[0]
    hidden_bytes = 2 * TOKENS * HIDDEN
    assert sequence_parallel.layer(block).tensor_parallel_forward_seconds[0] == pytest.approx(4 * hidden_bytes * 1e-9)
    assert work(tp=1).layer(block).tensor_parallel_forward_seconds[0] == 0


def test_tp_divides_what_it_splits_and_no_more() -> None:
    whole, split = work(tp=1), work(tp=4)
    block = whole.model.layer_classes[0]
    norms = 2 * HIDDEN
    assert whole.layer(block).parameters[0] == LAYER_WEIGHTS + norms
    assert split.layer(block).parameters[0] == LAYER_WEIGHTS / 4 + norms
    assert split.layer(block).forward_seconds[0] == pytest.approx(whole.layer(block).forward_seconds[0] / 4)


def test_full_recompute_keeps_the_layer_input_alone() -> None:
    model = work()
    kept = dict(zip(POLICIES, model.layer(model.model.layer_classes[0]).activation_bytes_by_policy[0], strict=True))
    assert kept["full"] == 2 * TOKENS * HIDDEN
    # bf16, per token: two norms (fp32 input 4 + output 2) and two matmul inputs of 64; q 64, k 32, v 32, output 64 and
    # 4 fp32 log-sums; gate, up, activated and product of 128
    assert kept["none"] == TOKENS * (2 * 6 * 64 + 2 * 2 * 64 + 2 * (64 + 32 + 32 + 64) + 4 * 4 + 2 * 4 * 128)


def test_scores_are_what_selective_recompute_saves() -> None:
    model = work(attention="unfused")
    none, selective, _ = model.layer(model.model.layer_classes[0]).activation_bytes_by_policy[0]
    assert none - selective == TOKENS * SEQ * 4 * (4 + 2)  # heads x (fp32 softmax + bf16 cast)


@pytest.mark.parametrize(("pp", "tied", "holds"), [(1, True, False), (2, True, True), (1, False, True)])
def test_a_tied_head_has_weights_of_its_own_only_on_another_stage(pp: int, tied: bool, holds: bool) -> None:
    parameters = work(pp=pp, tied=tied).head().parameters[0]
    assert parameters == ((1000 * HIDDEN + HIDDEN) if holds else 0)


def test_many_candidates_at_once_equal_each_alone() -> None:
    alone = [work(tp=tp) for tp in (1, 2, 4)]
    together = WorkModel(
        alone[0].model, alone[0].cluster, alone[0].training, RoundTimes(),
        type(alone[0].candidates)(**{
            name: np.concatenate([getattr(one.candidates, name) for one in alone])
            for name in vars(alone[0].candidates)
        }),
    )  # fmt: skip
    block = together.model.layer_classes[0]
    for name, value in vars(together.layer(block)).items():
        singles = np.concatenate([np.atleast_1d(getattr(one.layer(block), name)) for one in alone])
        np.testing.assert_array_equal(value, singles)


def test_norms_of_queries_and_keys_cost_traffic_and_memory() -> None:
    model = small_model(hidden=HIDDEN)
    plain = model.layer_classes[0]
    normed = plain.model_copy(update={"attention": plain.attention.model_copy(update={"qk_norm": "per_head"})})
    heads = 64 + 32
    assert operators.inner_elements(normed, model, OWN) - operators.inner_elements(plain, model, OWN) == 6 * heads
    kept = [model.layer(block).activation_bytes_by_policy[0, 0] for model in [work()] for block in (normed, plain)]
    assert kept[0] - kept[1] == TOKENS * (4 + 2) * heads
