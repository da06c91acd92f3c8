"""Reasons for the plans of phases: what the run would take without a switch, or with the best plan of one phase."""

from typing import Any

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.phases import Switching
from shardwright.planner.nearby import search_job
from shardwright.planner.phases import PlannedPhase, plan_phases, planned_again, searched_again, why_these_plans
from shardwright.planner.space import Fixed
from shardwright.specs.training import TrainingSpec
from tests.parity.cases import model_config

CLUSTER = load_cluster("a100-sxm-80gb:4")
MODEL = model_from_config(model_config("llama", layers=8, max_position_embeddings=32768), name="small", source="test")
SHORT = TrainingSpec(seq_len=1024, global_batch=64)
LONG = TrainingSpec(seq_len=16384, global_batch=4)
STORAGE: dict[str, Any] = {"write_bytes_per_s": 1e9, "read_bytes_per_s": 1e9}
LIMIT = 30.0


def planned(steps: int, job: TrainingSpec, **fixed: int) -> PlannedPhase:
    """So many steps under the best plan that keeps what is fixed, without a switch yet."""
    found = plan_phases(CLUSTER, [(steps, MODEL, job)], Switching(), fixed=Fixed(**fixed))
    return found.phases[0]


def why(*phases: PlannedPhase, build: float = 0.0) -> list[str]:
    given = Switching(build_seconds=build, **STORAGE)
    return why_these_plans(CLUSTER, planned_again(CLUSTER, phases, given), given, time_limit_seconds=LIMIT)


def test_a_switch_is_weighed_against_one_placement() -> None:
    """An hour to build the model is more than any placement costs in 20 steps."""
    first, second = planned(10, SHORT, tp=1), planned(10, LONG, tp=2)
    (line,) = why(first, second, build=3600.0)
    assert line.startswith("Without the switch to phase 2 the run would take ")
    assert "% more" not in line, "a switch in memory builds the model too, so it takes about as long"
    (line,) = why(first._replace(steps=10**6), second._replace(steps=10**6))
    assert "% less: phase 2 under the placement of phase 1 (dp_replicate4) takes " in line, "tp 2 saves nothing here"


def test_a_phase_that_keeps_the_placement_of_a_neighbour_is_compared_with_its_best_plan() -> None:
    """tp 2 is no plan that the search would choose for either; with its own best plan each phase takes a checkpoint more."""
    lines = why(planned(1, SHORT, tp=2), planned(1, LONG, tp=2), build=5.0)
    assert [line.partition(" keeps")[0] for line in lines] == ["Phase 1", "Phase 2"]
    best = search_job(MODEL, CLUSTER, LONG).result
    assert f"With its best plan alone ({best.plan.mesh}" in lines[1] or "no faster plan" in lines[1]


def test_one_plan_all_along_needs_no_reason() -> None:
    phase = planned(3, SHORT)
    assert why(phase, phase._replace(steps=5)) == []


def test_a_search_finds_what_plan_phases_finds() -> None:
    given = Switching(**STORAGE)
    phases = planned_again(CLUSTER, (planned(1, SHORT, tp=2), planned(1, LONG, tp=1)), given)
    found = searched_again(CLUSTER, phases, given, time_limit_seconds=LIMIT)
    assert found is not None
    assert found.seconds < sum(phase.seconds + phase.switch.seconds for phase in phases)
