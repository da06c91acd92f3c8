"""Activations on the host, by hand: 1 second per 10 GB copied; a layer keeps what its row says."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.checks import check_layer_counts, check_plan
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import PLAIN_STRATEGIES, POLICIES, LayerRun, Plan, Stage, Strategy
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.specs.test_candidates import candidates

NONE, FULL = POLICIES.index("none"), POLICIES.index("full")
LAYERS = 8


def tables(offloaded: int, *, seq_len: int = 128, **degrees: int) -> CostTables:
    training = TrainingSpec(seq_len=seq_len, global_batch=64, activation_offload_layers=offloaded)
    chosen = candidates(offload_optimizer=0, zero_stage=0, **degrees)
    return build_tables(small_model(layers=LAYERS), training, chosen, RoundTimes())


@pytest.mark.parametrize(
    ("pp", "offloaded", "stays"), [(1, 2, 6 / 8), (2, 2, 2 / 4), (4, 2, 0.0), (4, 8, 0.0), (1, 0, 1.0)]
)
def test_the_share_of_a_ranks_layers_leaves_its_memory(pp: int, offloaded: int, stays: float) -> None:
    kept = tables(0).activation_bytes[0]
    found = tables(offloaded, pp=pp, microbatches=8).activation_bytes[0]
    assert found[0] == pytest.approx(stays * kept[0])
    np.testing.assert_array_equal(found[1:], tables(0, pp=pp, microbatches=8).activation_bytes[0, 1:])


@pytest.mark.parametrize(("offloaded", "buffered"), [(0, 0), (1, 1), (2, 2), (5, 2)])
def test_two_layers_at_most_are_in_buffers(offloaded: int, buffered: int) -> None:
    kept = tables(0).activation_bytes[0, 0]
    added = tables(offloaded).working_bytes[0, 0] - tables(0).working_bytes[0, 0]
    assert added == pytest.approx(buffered * kept)


@pytest.mark.parametrize("policy", [NONE, FULL])
def test_copies_both_ways_add_what_outlasts_the_compute_of_a_layer(policy: int) -> None:
    """Half of the layers: the mean copy is half of one layer's. Beside it compute loses a fifth of the time."""
    plain, found = tables(0, seq_len=4096), tables(LAYERS // 2, seq_len=4096)
    copy = plain.activation_bytes[0, 0, policy] / 2 * 1e-10
    forward, backward = (seconds.total[0, 0, policy] for seconds in (plain.forward, plain.backward))
    expected = sum(max(0.0, copy - compute) + 0.2 * min(compute, copy) for compute in (forward, backward))
    assert found.backward.host_copy[0, 0, policy] == pytest.approx(expected)
    assert found.forward.host_copy[0, 0, policy] == 0
    assert found.backward.host_copy[0, 1:].max() == 0


def test_a_slower_link_exposes_more() -> None:
    def exposed(seconds_per_byte: float) -> float:
        class Link(RoundTimes):
            def host_copy_seconds(self, size_bytes: object) -> np.ndarray:
                return np.asarray(size_bytes, dtype=float) * seconds_per_byte

        training = TrainingSpec(seq_len=128, global_batch=64, activation_offload_layers=LAYERS)
        chosen = candidates(offload_optimizer=0, zero_stage=0)
        found = build_tables(small_model(layers=LAYERS), training, chosen, Link())
        return float(found.backward.host_copy[0, 0, NONE])

    compute = tables(0).forward.total[0, 0, NONE] + tables(0).backward.total[0, 0, NONE]
    kept = tables(0).activation_bytes[0, 0, NONE]
    assert exposed(1e-3) == pytest.approx(2 * kept * 1e-3 - compute + 0.2 * compute)
    assert exposed(1e-20) < 1e-12 < exposed(1e-9)


def test_the_host_holds_the_microbatches_in_flight() -> None:
    kept = tables(0).activation_bytes[0, 0, NONE]
    assert tables(2, pp=2, microbatches=8).static.host[0, 0] == pytest.approx(2 * kept / 2)
    assert tables(2, pp=1, microbatches=8).static.host[0, 0] == pytest.approx(kept / 4)


def test_more_layers_than_the_model_has_are_refused() -> None:
    given = TrainingSpec(seq_len=8, global_batch=1, activation_offload_layers=9)
    with pytest.raises(SpecError, match="activation_offload_layers is 9 and small has 8 layers; give at most 8"):
        check_layer_counts(small_model(layers=8), given)


def of_tokens(*shares: float, seq_len: int = 128, pp: int = 1) -> CostTables:
    """Without recompute, these shares of the tokens on the host, from the fourth strategy on."""
    strategies = (*PLAIN_STRATEGIES, *(Strategy("none", share) for share in shares))
    training = TrainingSpec(seq_len=seq_len, global_batch=64)
    chosen = candidates(offload_optimizer=0, zero_stage=0, pp=pp, microbatches=8)
    return build_tables(small_model(layers=LAYERS), training, chosen, RoundTimes(), strategies=strategies)


def test_a_share_of_the_tokens_leaves_the_layer() -> None:
    """Of two layers that share is in buffers; the rest of the policies, and the ends, stay as they are."""
    plain, found = tables(0), of_tokens(0.25, 1)
    kept = plain.activation_bytes[0, 0, NONE]
    np.testing.assert_allclose(found.activation_bytes[0, 0, 3:], [0.75 * kept, 0])
    np.testing.assert_allclose(found.working_bytes[0, 0, 3:] - plain.working_bytes[0, 0, NONE], [0.5 * kept, 2 * kept])
    np.testing.assert_array_equal(found.activation_bytes[0, :, :3], plain.activation_bytes[0])
    np.testing.assert_array_equal(found.activation_bytes[0, 1:, 3:], plain.activation_bytes[0, 1:, [NONE, NONE]].T)
    assert found.host_activation_bytes is not None
    np.testing.assert_allclose(found.host_activation_bytes[0, 0], [0, 0, 0, 0.25 * kept, kept])
    assert found.static.host.max() == 0


def test_the_tokens_copies_run_beside_their_own_layer() -> None:
    """3/4 of the bytes each way; beside them compute loses a fifth of the time, and what outlasts a pass is added."""
    plain, found = tables(0, seq_len=4096), of_tokens(0.75, seq_len=4096)
    copy = 0.75 * plain.activation_bytes[0, 0, NONE] * 1e-10
    forward, backward = (seconds.total[0, 0, NONE] for seconds in (plain.forward, plain.backward))
    expected = sum(max(0.0, copy - compute) + 0.2 * min(compute, copy) for compute in (forward, backward))
    assert found.backward.host_copy[0, 0, 3] == pytest.approx(expected)


def test_a_plans_host_holds_the_tokens_of_the_microbatches_in_flight() -> None:
    """Two ranks: half of the tokens of two layers, twice on the first rank; a quarter of those of two layers on the second."""
    stages = (
        Stage(layers=(LayerRun(count=2, activation_offload=0.5), LayerRun(count=2))),
        Stage(layers=(LayerRun(count=2), LayerRun(count=2, activation_offload=0.25))),
    )
    plan = Plan(mesh=Mesh(pp=2), micro_batch=1, microbatches=8, stages=stages)
    training = TrainingSpec(seq_len=128, global_batch=8)
    estimate = estimate_plan(small_model(layers=LAYERS), round_cluster(), training, plan, RoundTimes())
    kept = of_tokens(pp=2).activation_bytes[0, 0, NONE]
    assert estimate.host_bytes == pytest.approx((2 * 2 * 0.5 * kept, 2 * 0.25 * kept))
    plain = plan.model_copy(update={"stages": tuple(Stage(layers=(LayerRun(count=4),)) for _ in stages)})
    before = estimate_plan(small_model(layers=LAYERS), round_cluster(), training, plain, RoundTimes())
    freed = before.memory[0].activations - estimate.memory[0].activations
    assert freed == pytest.approx(2 * 2 * 0.5 * kept - 2 * 0.5 * kept)  # less the buffers of two layers


def test_layers_or_tokens_go_to_the_host_not_both() -> None:
    stages = (Stage(layers=(LayerRun(count=LAYERS, activation_offload=0.5),)),)
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=8, stages=stages)
    training = TrainingSpec(seq_len=128, global_batch=8, activation_offload_layers=2)
    with pytest.raises(SpecError, match="leave out activation_offload_layers"):
        check_plan(plan, small_model(layers=LAYERS), round_cluster(), training)


def test_a_schedule_that_splits_the_backward_keeps_activations_on_the_device() -> None:
    stages = tuple(Stage(layers=(LayerRun(count=1, activation_offload=0.5),)) for _ in range(2))
    with pytest.raises(ValueError, match="schedule zb-h1 splits it; set activation_offload to 0"):
        Plan(mesh=Mesh(pp=2), micro_batch=1, microbatches=4, schedule="zb-h1", stages=stages)
