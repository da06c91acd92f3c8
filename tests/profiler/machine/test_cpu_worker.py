"""How often a piece of work is timed: a noisy short one several times, a long one once."""

import time

import pytest

from shardwright.profiler.machine import cpu_worker


@pytest.mark.parametrize(
    ("each_seconds", "budget_seconds", "runs"),
    [(0.01, 0.1, 11), (0.1, 0.1, 4), (0.4, 1.0, 4), (1.5, 0.15, 1), (0.3, 0.15, 1)],
)
def test_long_work_is_timed_once(
    monkeypatch: pytest.MonkeyPatch, each_seconds: float, budget_seconds: float, runs: int
) -> None:
    now, calls = [0.0], [0]

    def work() -> None:
        now[0] += each_seconds
        calls[0] += 1

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timing = cpu_worker._timed(work, ranks=1, seconds=budget_seconds)
    assert calls[0] - 1 == pytest.approx(runs, abs=1 if runs > 4 else 0)
    assert timing.quartile_seconds == pytest.approx(each_seconds)
    assert timing.wall_seconds == pytest.approx(each_seconds * (calls[0] - 1))
