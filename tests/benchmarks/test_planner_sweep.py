"""The sweep over all presets counts plans and reasons, and finds faults."""

import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.benchmarks import planner_sweep
from shardwright.benchmarks.planner_sweep import Sweep


def test_a_plan_without_faults_and_a_reason() -> None:
    sweep = Sweep()
    sweep.run("gpt3-125m", "h100-sxm:8")
    sweep.run("llama-3.1-405b", "a100-sxm-80gb:8")
    assert sweep.outcomes == {"plan": 1, "nothing fits": 1}
    assert sweep.faults == []


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise InfeasibleError("1 GiB too much")

    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    sweep = Sweep()
    monkeypatch.setattr(planner_sweep, "_recipes", lambda *_: [("recipe", 1e-6)])
    sweep.run("gpt3-125m", "h100-sxm:8")
    assert len(sweep.faults) == 1
    assert "recipe takes 1e-06 s" in sweep.faults[0]
    monkeypatch.setattr(planner_sweep, "check_memory", lacks)
    sweep.run("gpt3-125m", "h100-sxm:8")
    assert "does not fit: 1 GiB too much" in sweep.faults[1]
    monkeypatch.setattr(planner_sweep, "search", breaks)
    sweep.run("gpt3-125m", "h100-sxm:8")
    assert sweep.outcomes["crash"] == 1
    assert "ZeroDivisionError" in sweep.faults[-1]
