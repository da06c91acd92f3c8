"""What a layer takes and keeps where means of tokens travel to its experts, by hand: 1 second a TFLOP, 1 second a GB."""

from dataclasses import replace

import pytest

from shardwright.base import SpecError
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.core.averaging import HASH_COORDINATES, HASHES
from shardwright.costmodel.layers.operators import ExpertSplit
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.layers.traffic import dispatched_elements
from shardwright.specs.plan import EXPERT_DISPATCH
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts
from tests.specs.test_candidates import candidates

HIDDEN, TOKENS, PER = 64, 2 * 128, 4
NODE = round_cluster(nodes=2, devices_per_node=4).node


def row(per_centroid: int, **degrees: int) -> RowWork:
    training = TrainingSpec(seq_len=128, global_batch=8, tokens_per_centroid=per_centroid)
    model = small_experts()
    chosen = candidates(micro_batch=2, expert_dispatch=EXPERT_DISPATCH.index("all-to-all"), **degrees)
    return WorkModel(model, training, RoundTimes(node=NODE), chosen).layer(model.layer_classes[0])


def test_a_quarter_travels_and_is_computed() -> None:
    """Two copies of 256 tokens for eight experts: 64 for each, 16 means. A copy passes three matrices of 64 x 64; hashing is a projection of each
    token. Memory traffic takes no time here."""
    every, means = row(1, ep=4, dp_shard=4), row(PER, ep=4, dp_shard=4)
    assert means.expert_parallel_forward_seconds == pytest.approx(every.expert_parallel_forward_seconds / PER)
    matmuls = (1 - 1 / PER) * 2 * 2 * TOKENS * 3 * HIDDEN * HIDDEN * 1e-12
    hashing = 2 * TOKENS * HIDDEN * HASHES * HASH_COORDINATES * 1e-12
    assert every.forward_seconds - means.forward_seconds == pytest.approx(matmuls - hashing)
    assert every.backward_seconds - means.backward_seconds == pytest.approx(2 * matmuls)


def test_averaging_moves_four_copies_and_other_ranks_sort_means() -> None:
    block, sent = small_experts().layer_classes[0], 2 * HIDDEN
    split = ExpertSplit(ep=4, expert_tp=1, own_tokens=TOKENS)
    assert dispatched_elements(block, HIDDEN, split) == 4 * sent
    assert dispatched_elements(block, HIDDEN, replace(split, per_centroid=PER)) == (2 + 2 / PER + 4) * sent


def test_what_is_kept_shrinks_by_inputs_and_columns_alone() -> None:
    """Of each copy the input of its expert and four columns' tensors are kept for every mean, and what came back for every token."""
    every, means = row(1, ep=4, dp_shard=4), row(PER, ep=4, dp_shard=4)
    less = every.activation_bytes_by_policy[0, 0] - means.activation_bytes_by_policy[0, 0]
    assert less == pytest.approx((1 - 1 / PER) * 2 * TOKENS * 2 * (HIDDEN + 4 * HIDDEN))
    assert (every.expert_parameters == means.expert_parameters).all()


def test_without_ep_every_token_is_computed() -> None:
    every, means = row(1, dp_shard=4), row(PER, dp_shard=4)
    assert means.forward_seconds == every.forward_seconds
    assert means.activation_bytes_by_policy.tolist() == every.activation_bytes_by_policy.tolist()


def test_other_software_sends_every_token() -> None:
    given = {"seq_len": 8, "global_batch": 8, "tokens_per_centroid": 5, "stack": "megatron-core"}
    with pytest.raises(SpecError, match="stack megatron-core sends every token to its experts"):
        TrainingSpec.parse(given, source="test")
