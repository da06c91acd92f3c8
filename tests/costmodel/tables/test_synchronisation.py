"""What replicas exchange in place of gradients in full: seconds, what hides, volumes and memory, worked by hand."""

from typing import Any

import numpy as np
import pytest

from shardwright.base import Array, Number
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.synchronisation import Synchronisation
from shardwright.specs.candidates import sync_columns
from shardwright.specs.plan import Outer, Sync
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

ELEMENTS = 1e9
SLOWED = CALIBRATED.collective_multiprocessors / 100  # of the round device's multiprocessors


class MovingTimes(RoundTimes):
    """And a second for each TB of memory traffic."""

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes, dtype=float) * 1e-12


def exchange(
    sync: Sync,
    *,
    compute: float = 0.0,
    kind: str = "gpu",
    replicas: int = 2,
    microbatches: int = 1,
    rows: int = 1,
    pp: int = 1,
) -> Synchronisation:
    """Of `rows` rows with a thousand million elements of a shard each, whose passes take `compute` seconds a microbatch."""
    times = MovingTimes(node=round_cluster(kind=kind).node)  # type: ignore[arg-type] # "gpu" or "cpu"
    chosen: Any = candidates(dp_replicate=replicas, pp=pp, microbatches=microbatches, **sync_columns(sync))
    row = np.full((1, rows), ELEMENTS)
    training = TrainingSpec(seq_len=8, global_batch=8)
    return Synchronisation(training, times, chosen, row, 0 * row, np.ones(rows), np.full((1, rows), compute), 0 * row)


def kernels(numbers: int) -> float:
    """Seconds of reading and writing so many fp32 numbers for each element."""
    return 4 * numbers * ELEMENTS * 1e-12


def seconds(sync: Sync, **given: Any) -> float:
    return float(exchange(sync, **given).seconds.sum())


FULL = 4.0
"""Seconds of an all-reduce of ELEMENTS fp32 numbers at the round rate of 1 GB/s."""


class TestCompressed:
    def test_two_phases_of_the_bits(self) -> None:
        """An eighth of a byte for each element, all-to-all and all-gather, and nothing hides it."""
        bits = 1 / 8 + 4 / 2048
        assert seconds(Sync(bits=1, warmup_steps=1), compute=100) == pytest.approx(2 * bits + kernels(4), rel=1e-5)
        assert seconds(Sync(bits=8)) == pytest.approx(2 * (1 + 4 / 2048) + kernels(4), rel=1e-5)

    def test_the_volume_law(self) -> None:
        """1-bit Adam: 16 times less than fp16 and 32 times less than fp32 (arXiv 2102.02888, section 4.3), but for the scales."""
        one = seconds(Sync(bits=1, warmup_steps=1)) - kernels(4)
        assert 2 * FULL / one == pytest.approx(32, rel=0.02)  # a ring all-reduce moves its bytes in two phases too


class TestLocalSteps:
    def test_an_outer_step_is_shared_by_its_inner_steps(self) -> None:
        every = [seconds(Sync(inner_steps=steps, outer=Outer())) for steps in (1, 10, 500)]
        assert every == pytest.approx([(FULL + kernels(6)) / steps for steps in (1, 10, 500)])

    @pytest.mark.parametrize(
        ("delay", "compute", "hidden"),
        [(0, 100, 0), (1, 1, 1), (3, 1, 3), (3, 2, 4), (4, 100, 4)],
    )
    def test_exposed_is_what_outlasts_the_delay(self, delay: int, compute: float, hidden: float) -> None:
        """max(0, 4 s - delay x compute), and compute lost while the exchange runs beside it; a quarter of that each step."""
        found = seconds(Sync(inner_steps=4, delay=delay, outer=Outer()), compute=compute)
        assert found == pytest.approx((FULL - hidden + SLOWED * hidden + kernels(6)) / 4)

    def test_microbatches_and_stages_hide_too(self) -> None:
        """Two rows over two stages: a rank computes one row's second 3 times a step, and exchanges one row."""
        found = seconds(Sync(inner_steps=4, delay=1, outer=Outer()), compute=1, microbatches=3, rows=2, pp=2)
        assert found == pytest.approx(2 * (FULL - 3 + SLOWED * 3 + kernels(6)) / 4)

    def test_each_fragment_has_a_delay_of_its_own(self) -> None:
        one, two, eight = (
            seconds(Sync(inner_steps=8, fragments=count, delay=1, outer=Outer()), compute=1) for count in (1, 2, 8)
        )
        assert [8 * each - kernels(6) for each in (one, two, eight)] == pytest.approx(
            [3 + SLOWED, 2 + 2 * SLOWED, 4 * SLOWED]
        )

    def test_flat_while_hidden(self) -> None:
        """CO2's law: once a round hides the exchange, more inner steps gain no more than the update and the slowdown."""
        exposed = [
            steps * seconds(Sync(inner_steps=steps, delay=steps, outer=Outer()), compute=1) for steps in range(1, 9)
        ]
        visible = [max(0.0, each - kernels(6) - SLOWED * min(steps, FULL)) for steps, each in enumerate(exposed, 1)]
        assert visible == pytest.approx([3, 2, 1, 0, 0, 0, 0, 0], abs=1e-9)

    def test_streaming_volume_law(self) -> None:
        """Bytes of a step fall by H x 32 / q against fp32 gradients, but for the scales: 4 bits and 100 steps, 800 times."""
        sent = 100 * seconds(Sync(inner_steps=100, bits=4, outer=Outer())) - kernels(6)
        assert 2 * FULL * 100 / sent == pytest.approx(100 * 32 / 4, rel=0.01)

    def test_a_cpu_hides_nothing(self) -> None:
        sync = Sync(inner_steps=4, delay=4, outer=Outer())
        assert seconds(sync, compute=100, kind="cpu") == pytest.approx((FULL + kernels(6)) / 4)


def test_islands_exchange_nothing() -> None:
    assert seconds(Sync(inner_steps=None)) == 0
    assert exchange(Sync(inner_steps=None)).state_bytes.sum() == 0


def test_an_exact_reduction_is_not_counted_here() -> None:
    assert seconds(Sync()) == 0
    assert exchange(Sync()).state_bytes.sum() == 0


@pytest.mark.parametrize(
    ("sync", "numbers"),
    [
        (Sync(bits=8), 1 + 1 / 4),  # error feedback of what is sent, and of the part that this rank adds up
        (Sync(bits=1, warmup_steps=1), 1 + 1 / 4),
        (Sync(inner_steps=8, outer=Outer()), 2),  # base and outer momentum
        (Sync(inner_steps=8, fragments=4, delay=1, outer=Outer()), 2 + 1 / 4),  # and a fragment on its way
        (Sync(inner_steps=8, delay=8, outer=Outer()), 3),
    ],
)
def test_memory_of_the_state(sync: Sync, numbers: float) -> None:
    assert exchange(sync, replicas=4).state_bytes.sum() == pytest.approx(4 * numbers * ELEMENTS)
