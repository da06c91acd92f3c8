"""The rate after sustained load: from a made-up device that slows down, and once for real."""

from collections.abc import Sequence

import pytest

from shardwright.profiler.probes.compute import sustained as sustained_probe
from shardwright.profiler.probes.compute.sustained import SustainedMatmulProbe
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import Machine, Work
from tests.profiler.gpu_stand_in import GpuStandIn


class Throttling(GpuStandIn):
    """A GPU whose matmul of 100 FLOPs takes 0.1 s for the first two seconds of load, then 0.125 s."""

    def __init__(self, *, reports: bool = True) -> None:
        super().__init__({})
        self.reports = reports
        self.loaded_seconds = 0.0
        self.started = 0

    def matmul(self) -> None:
        self.started += 1

    def seconds(self, work: Work, repeats: int) -> list[float]:
        return [self._once(work) for _ in range(repeats)]

    def _once(self, work: Work) -> float:
        self.started = 0
        work()
        seconds = self.started * (0.1 if self.loaded_seconds < 2 else 0.125)
        self.loaded_seconds += seconds
        return seconds

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        raise AssertionError("nothing runs beside it")

    def clock_hz(self) -> float | None:
        return (2e9 if self.loaded_seconds < 2 else 1.6e9) if self.reports else None

    def power_watts(self) -> float | None:
        return (500.0 if self.loaded_seconds < 2 else 700.0) if self.reports else None


@pytest.fixture
def throttling(monkeypatch: pytest.MonkeyPatch) -> Throttling:
    machine = Throttling()

    def matmul(given: Machine) -> tuple[int, Work]:
        assert isinstance(given, Throttling)
        return 10, given.matmul

    monkeypatch.setattr(sustained_probe, "_matmul", matmul)
    return machine


def test_both_ends_of_the_load(throttling: Throttling) -> None:
    """2 x 10^3 FLOPs in 0.1 s, then in 0.125 s."""
    figures = SustainedMatmulProbe(10.0).measure(throttling)
    assert {name: figure.value for name, figure in figures.items()} == pytest.approx(
        {
            "sustained_matmul_share": 0.8,
            "sustained_start_flops_per_s": 2e4,
            "sustained_end_flops_per_s": 1.6e4,
            "sustained_seconds": figures["sustained_seconds"].value,
            "sustained_start_clock_hz": 2e9,
            "sustained_start_power_watts": 500,
            "sustained_end_clock_hz": 1.6e9,
            "sustained_end_power_watts": 700,
        }
    )
    assert 10 <= figures["sustained_seconds"].value < 12
    assert {figure.unit for figure in figures.values()} == {"share", "FLOP/s", "s", "Hz", "W"}


def test_the_matmuls_of_a_chain_have_no_pauses(throttling: Throttling) -> None:
    """0.25 s of matmuls of 0.1 s are three."""
    SustainedMatmulProbe(1.0).measure(throttling)
    assert throttling.started == 6  # three of the last timing, and three that ran while the clock was read


def test_what_the_device_does_not_report_is_left_out(throttling: Throttling) -> None:
    throttling.reports = False
    figures = SustainedMatmulProbe(1.0).measure(throttling)
    assert not [name for name in figures if "clock" in name or "power" in name]
    assert figures["sustained_matmul_share"].value == pytest.approx(1.0)


def test_here() -> None:
    figures = SustainedMatmulProbe(0.3).measure(CpuMachine())
    share = figures["sustained_matmul_share"]
    assert share.low is not None
    assert share.high is not None
    assert 0 < share.low <= share.value <= share.high
    assert figures["sustained_seconds"].value >= 0.3
    assert "sustained_end_power_watts" not in figures
