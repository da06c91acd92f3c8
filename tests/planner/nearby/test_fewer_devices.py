"""Fewer devices than given: whole nodes first, found by search, and chosen only where they are faster."""

import math

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory, check_plan
from shardwright.planner.best_plan import TOLERANCE, search
from shardwright.planner.nearby.fewer_devices import smaller_clusters
from shardwright.planner.nearby.job import search_job
from shardwright.planner.space.asked import asked
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import Problem, random_problem, tiny_cluster, tiny_model

_MODEL = tiny_model(layers=8, hidden=256)


def _step(problem: Problem, cluster: ClusterSpec) -> float:
    try:
        return search(problem.model, cluster, problem.training, runners_up=0).estimate.step_seconds
    except (SpecError, InfeasibleError):
        return math.inf


def test_parts_are_whole_nodes_and_then_fewer_devices_of_one() -> None:
    parts = list(smaller_clusters(tiny_cluster(devices=12, devices_per_node=4)))
    assert [(part.devices, part.node.devices_per_node) for part in parts] == [(8, 4), (4, 4), (3, 3), (2, 2), (1, 1)]
    assert all(part.name.startswith(f"{part.devices} of ") for part in parts)


@pytest.mark.parametrize("seed", range(3000, 3018))
@pytest.mark.parametrize("batch", [4, 7])
def test_no_part_is_faster_by_more_than_the_tolerance(seed: int, batch: int) -> None:
    """Against every part, searched on its own; each plan is valid for its part."""
    problem = random_problem(seed)
    problem = problem._replace(training=problem.training.model_copy(update={"global_batch": batch}))
    fastest = min(_step(problem, cluster) for cluster in (problem.cluster, *smaller_clusters(problem.cluster)))
    try:
        found = search_job(*problem, allow_fewer_devices=True, runners_up=0)
    except (SpecError, InfeasibleError):
        return
    job = (problem.model, found.cluster, problem.training)
    check_plan(found.result.plan, *job)
    check_memory(found.result.estimate, found.cluster)
    assert found.result.estimate.step_seconds * (1 - TOLERANCE) <= fastest * (1 + 1e-9)
    assert (found.cluster == problem.cluster) or found.notes


class TestWhereNothingDivides:
    cluster = tiny_cluster(devices=7, devices_per_node=7)
    training = TrainingSpec(seq_len=1024, global_batch=8)
    fixed = asked({}, forbid=["pp", "tp", "cp"])

    def test_the_refusal_offers_what_a_search_finds(self) -> None:
        with pytest.raises(SpecError) as refused:
            search_job(_MODEL, self.cluster, self.training, fixed=self.fixed)
        assert "a plan was found for a global batch of 7 or 14, and on 4 of the 7 devices" in str(refused.value)
        for batch in (7, 14):
            search(_MODEL, self.cluster, self.training.model_copy(update={"global_batch": batch}), fixed=self.fixed)

    def test_fewer_devices_are_taken_if_allowed(self) -> None:
        found = search_job(_MODEL, self.cluster, self.training, fixed=self.fixed, allow_fewer_devices=True)
        assert found.cluster.devices == found.result.plan.mesh.dp
        assert 8 % found.cluster.devices == 0
        assert found.notes[0].startswith(f"The plan leaves {7 - found.cluster.devices} of 7 devices idle: ")

    def test_what_contradicts_itself_gets_no_offers(self) -> None:
        with pytest.raises(SpecError, match=r"allowed: 1, 2$"):
            search_job(_MODEL, self.cluster, self.training, fixed=asked({"tp": "4"}))


def test_a_note_names_the_faster_part_and_the_option() -> None:
    """8 sequences on 5 devices need a pipeline of 5 stages; on 4 devices each has two sequences."""
    job = (_MODEL, tiny_cluster(devices=5, devices_per_node=5), TrainingSpec(seq_len=1024, global_batch=8))
    found = search_job(*job, runners_up=0)
    assert found.cluster.devices == 5
    (note,) = [note for note in found.notes if "--allow-fewer-devices" in note]
    there = search_job(*job, allow_fewer_devices=True, runners_up=0)
    assert note.startswith(f"On {there.cluster.devices} of the 5 devices a step takes ")
    assert there.result.estimate.step_seconds < found.result.estimate.step_seconds * (1 - TOLERANCE)
