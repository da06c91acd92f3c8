"""Activations on the host, by hand: 1 second per 10 GB copied; a layer keeps what its row says."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.checks import check_layer_counts
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.specs.plan import POLICIES
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, small_model
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
