"""The exchange of tokens in pieces beside their own experts, by hand: 1 second a TFLOP, 1 second a GB."""

import numpy as np
import pytest

from shardwright.base import SpecError
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.op_times.overlap import slowdown_beside
from shardwright.specs.plan import EXPERT_DISPATCH, POLICIES
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts
from tests.specs.test_candidates import candidates

HIDDEN, TOKENS = 64, 2 * 128
NODE = round_cluster(nodes=2, devices_per_node=4).node
# two copies of each token there and back; the experts of a rank compute two copies, by three matrices
TRADE = 2 * 2 * TOKENS * HIDDEN * 2 * 1e-9
EXPERTS = 2 * 2 * TOKENS * 3 * HIDDEN * HIDDEN * 1e-12


def row(pieces: int, **degrees: int) -> RowWork:
    training = TrainingSpec(seq_len=128, global_batch=8, stack="megatron-core", dispatch_pieces=pieces)
    chosen = candidates(micro_batch=2, expert_dispatch=EXPERT_DISPATCH.index("all-to-all"), **degrees)
    model = small_experts()
    return WorkModel(model, training, RoundTimes(node=NODE), chosen).layer(model.layer_classes[0])


@pytest.mark.parametrize("pieces", [2, 4])
def test_the_first_way_there_and_the_last_way_back_stay_and_experts_hide_what_they_can(pieces: int) -> None:
    slowed = float(slowdown_beside(NODE.device, RoundTimes().constants, np.ones(1)))
    hidden, kept = (1 - 1 / pieces) * EXPERTS, TRADE / pieces
    forward = row(pieces, ep=4, dp_shard=4).expert_parallel_forward_seconds[0]
    assert TRADE > EXPERTS
    assert forward == pytest.approx(kept + (TRADE - kept - hidden) + slowed * hidden)
    backward = row(pieces, ep=4, dp_shard=4).expert_parallel_backward_seconds_by_policy[0]
    assert backward[POLICIES.index("none")] == pytest.approx(kept + (TRADE - kept - 2 * hidden) + slowed * 2 * hidden)
    assert backward[POLICIES.index("full")] == pytest.approx(backward[POLICIES.index("none")] + forward)


def test_one_piece_hides_nothing_and_without_ep_there_is_nothing() -> None:
    assert row(1, ep=4, dp_shard=4).expert_parallel_forward_seconds[0] == pytest.approx(TRADE)
    assert row(4, dp_shard=4).expert_parallel_forward_seconds[0] == 0


def test_only_one_way_to_hide_it_is_taken() -> None:
    given = {"seq_len": 8, "global_batch": 8, "dispatch_pieces": 2, "overlaps_dispatch": True}
    with pytest.raises(SpecError, match="leave one of them out"):
        TrainingSpec.parse(given, source="test")
