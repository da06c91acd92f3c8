"""Plans of phases: a short phase keeps the placement of its neighbours, a long one has its own."""

from typing import Any

import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.phases import Switching, same_placement
from shardwright.planner.nearby import search_job
from shardwright.planner.phases import PhasesResult, plan_phases
from shardwright.specs.training import TrainingSpec

CLUSTER = load_cluster("a100-sxm-80gb:8")
MODEL = load_model("llama-3.1-8b")
SHORT = TrainingSpec(seq_len=4096, global_batch=64)
LONG = TrainingSpec(seq_len=131072, global_batch=2)


def planned(steps: tuple[int, ...], *jobs: TrainingSpec, build: float = 0.0, **options: Any) -> PhasesResult:
    given = Switching(build_seconds=build, write_bytes_per_s=1e9, read_bytes_per_s=1e9)
    return plan_phases(CLUSTER, [(count, MODEL, job) for count, job in zip(steps, jobs, strict=True)], given, **options)


def test_long_phases_have_the_plans_that_they_would_have_alone() -> None:
    """A checkpoint of 8.03 G parameters with AdamW is 96 GB: 96 s to write and twice 96 s to read at 1 GB/s."""
    found = planned((2000, 500), SHORT, LONG, build=20.0)
    for phase, job in zip(found.phases, (SHORT, LONG), strict=True):
        assert phase.estimate.step_seconds == pytest.approx(
            search_job(MODEL, CLUSTER, job).result.estimate.step_seconds, rel=1e-9
        )
    first, second = found.phases
    assert not same_placement(first.plan, second.plan)
    assert second.switch.kind == "checkpoint"
    assert second.switch.seconds == pytest.approx(20 + 3 * 96.4, rel=0.01)
    assert found.seconds == pytest.approx(
        2000 * first.estimate.step_seconds + 500 * second.estimate.step_seconds + second.switch.seconds
    )
    assert found.own_best_seconds == pytest.approx(found.seconds)
    assert found.one_placement_seconds is not None
    assert found.one_placement_seconds > found.seconds


def test_a_short_phase_keeps_the_placement_of_the_long_one() -> None:
    """One step of the short sequences is faster under sharded data alone, but by less than a checkpoint takes."""
    found = planned((1, 500), SHORT, LONG)
    first, second = found.phases
    assert same_placement(first.plan, second.plan)
    assert second.switch.kind == "memory"
    assert first.estimate.step_seconds > search_job(MODEL, CLUSTER, SHORT).result.estimate.step_seconds
    assert found.seconds < found.own_best_seconds
    assert found.one_placement_seconds == pytest.approx(found.seconds)
    assert first.plan.global_batch == SHORT.global_batch
    again = estimate_plan(MODEL, CLUSTER, SHORT, first.plan)
    assert again.step_seconds == pytest.approx(first.estimate.step_seconds)


def test_neighbours_of_one_job_need_no_switch() -> None:
    found = planned((10, 20), SHORT, SHORT)
    assert [phase.switch.kind for phase in found.phases] == ["none", "none"]
    assert found.seconds == pytest.approx(30 * found.phases[0].estimate.step_seconds)


def test_a_phase_that_does_not_fit_is_named() -> None:
    with pytest.raises(InfeasibleError, match=r"^phase 2: "):
        planned((1, 1), SHORT, TrainingSpec(seq_len=2**24, global_batch=1))
