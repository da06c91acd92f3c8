import time

import pytest
import torch

from shardwright.executor.training.meter import MemoryMeter, StepMeter

CPU = torch.device("cpu")


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock readings to come."""
    readings: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: readings.pop(0))
    return readings


def test_parts_and_medians_leave_the_first_steps_out(ticks: list[float]) -> None:
    meter = StepMeter(CPU)
    for total, part in ((100.0, 90.0), (10.0, 4.0), (12.0, 6.0), (50.0, 5.0)):
        ticks += [0.0, 1.0, 1.0 + part, total]
        with meter.step(), meter.part("forward_backward"):
            pass
    assert meter.last_seconds == 50.0
    assert meter.seconds_after(1) == [10.0, 12.0, 50.0]
    assert meter.part_medians_after(1) == {"forward_backward": 5.0}


def test_the_last_step_is_always_timed(ticks: list[float]) -> None:
    meter = StepMeter(CPU)
    for total in (3.0, 2.0):
        ticks += [0.0, total]
        with meter.step():
            pass
    assert meter.left_out(3) == 1
    assert meter.seconds_after(3) == [2.0]


def test_the_peak_counts_what_was_freed_since_and_nothing_from_before() -> None:
    mebibyte = 2**20
    before = torch.ones(96 * mebibyte // 4)
    del before
    meter = MemoryMeter(CPU)
    quiet = meter.read()
    assert quiet.peak - quiet.baseline < 32 * mebibyte
    during = torch.ones(64 * mebibyte // 4)
    del during
    peak = meter.read()
    assert 48 * mebibyte < peak.peak - peak.baseline < 128 * mebibyte
    assert peak.reserved is None


def test_what_a_paused_block_needs_is_left_out_and_the_peak_before_it_stays() -> None:
    mebibyte = 2**20
    meter = MemoryMeter(CPU)
    step = torch.ones(64 * mebibyte // 4)
    del step
    with meter.paused():
        checkpoint = torch.ones(256 * mebibyte // 4)
        del checkpoint
    grown = meter.read().peak - meter.read().baseline
    assert 48 * mebibyte < grown < 160 * mebibyte


def test_memory_that_was_freed_hides_nothing() -> None:
    """The C library keeps small blocks that are freed below one in use, and gives a hole of them to a large tensor."""
    mebibyte = 2**20
    blocks = [bytearray(b"1") * (mebibyte // 16) for _ in range(2048)]
    in_use = blocks.pop()
    blocks.clear()
    meter = MemoryMeter(CPU)
    during = torch.ones(64 * mebibyte // 4)
    del during, in_use
    peak = meter.read()
    assert 48 * mebibyte < peak.peak - peak.baseline < 128 * mebibyte
