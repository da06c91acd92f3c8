"""The link fitted from all-reduces, and one real measurement with a tiny budget."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.base.errors import SpecError
from shardwright.profiler.machine.cpu_measurement import fit_link, measure_cpu
from shardwright.profiler.machine.cpu_rates import CpuSetting

SIZES = (4096, 65536, 2**20, 2**23)


@settings(deadline=None)  # the first call imports scipy
@given(ranks=st.integers(2, 8), latency_us=st.floats(1, 500), rate_gb_per_s=st.floats(0.2, 20))
def test_the_fit_finds_the_link_that_made_the_times(ranks: int, latency_us: float, rate_gb_per_s: float) -> None:
    latency, rate = latency_us * 1e-6, rate_gb_per_s * 1e9
    times = {size: (2 * ranks - 1) * latency + 2 * (ranks - 1) / ranks * size / rate for size in SIZES}
    assert fit_link(times, ranks) == pytest.approx((latency, rate), rel=1e-3)


def test_times_that_fall_with_size_still_give_a_link() -> None:
    """Noise can do that; the rate then comes from the largest message."""
    latency, rate = fit_link({4096: 9e-3, 65536: 5e-3, 2**20: 4e-3, 2**23: 3e-3}, 2)
    assert rate == pytest.approx(2**23 / 3e-3)
    assert latency >= 0


def test_times_without_latency_give_none() -> None:
    latency, rate = fit_link({size: size / 1e9 for size in SIZES}, 2)
    assert latency == pytest.approx(0, abs=1e-9)
    assert rate == pytest.approx(1e9)


def test_two_ranks_are_measured_at_once() -> None:
    """A real measurement. Rates lie within what any CPU of the last and next decades could show; a busy one is slower."""
    rates = measure_cpu(CpuSetting(cpu="this one", cores=2, ranks=2, torch="any"), seconds=0.3)
    assert 0 < rates.fp32_flops_per_s < 1e13
    assert 0 < rates.bf16_flops_per_s < 1e14
    assert 0 < rates.fp32_attention_flops_per_s < 1e13
    assert 0 < rates.bf16_attention_flops_per_s < 1e14
    assert 0 < rates.elementwise_bytes_per_s < 1e12
    assert 0 < rates.copy_bytes_per_s < 1e12
    assert rates.dispatch_seconds > 0
    assert rates.link_bytes_per_s is not None
    assert 0 < rates.link_bytes_per_s < 1e12
    assert rates.link_latency_seconds is not None
    assert rates.link_latency_seconds >= 0
    assert 0 < rates.cpu_share < 1.1
    assert 5e7 < rates.process_bytes < 5e9


def test_a_rank_that_fails_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of the failed rank are told, and the other is not waited for."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nif [ $4 = 0 ]; then sleep 60; fi\necho 'Traceback'\necho 'no gloo here'\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SpecError, match=r"failed \(rank 1, exit 3\): no gloo here"):
        measure_cpu(CpuSetting(cpu="this one", cores=2, ranks=2, torch="any"), seconds=0.3)
