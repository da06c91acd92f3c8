"""Batches near the job's: offered only where a search finds that they give more tokens/s."""

import re

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.planner.best_plan import TOLERANCE, search
from shardwright.planner.nearby.job import search_job
from shardwright.planner.nearby.other_batches import _better_dividing
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import random_problem, tiny_cluster, tiny_model

_MODEL = tiny_model(layers=4, hidden=1024)


def _offered(notes: tuple[str, ...]) -> dict[int, float]:
    """The gain in percent by batch."""
    lines = [note for note in notes if "divides poorly" in note]
    return {int(b): float(g) for line in lines for b, g in re.findall(r"(\d+) \(([\d.]+)% more tokens/s\)", line)}


def test_batches_on_one_side_divide_better_and_better() -> None:
    assert list(_better_dividing(1000, 96, -1)) == [996, 992, 960]
    assert list(_better_dividing(1000, 96, 1)) == [1008, 1056]
    assert list(_better_dividing(960, 96, 1)) == []


@pytest.mark.parametrize("batch", [13, 14, 15, 17, 21])
def test_a_batch_that_is_offered_gives_more_tokens_per_second(batch: int) -> None:
    cluster, training = tiny_cluster(devices=8, devices_per_node=8), TrainingSpec(seq_len=1024, global_batch=batch)
    found = search_job(_MODEL, cluster, training, runners_up=0)
    offered = _offered(found.notes)
    for other, gain in offered.items():
        there = search(_MODEL, cluster, training.model_copy(update={"global_batch": other}), runners_up=0)
        more = there.estimate.tokens_per_s / found.result.estimate.tokens_per_s - 1
        assert more > TOLERANCE
        assert gain == pytest.approx(100 * more, abs=0.051)
    assert len([other for other in offered if other < batch]) <= 1
    assert len([other for other in offered if other > batch]) <= 1


def test_a_prime_on_eight_devices_is_offered_neighbours() -> None:
    cluster = tiny_cluster(devices=8, devices_per_node=8)
    offered = _offered(search_job(_MODEL, cluster, TrainingSpec(seq_len=1024, global_batch=17), runners_up=0).notes)
    assert 16 in offered
    assert any(other > 17 for other in offered)


@pytest.mark.parametrize("seed", range(3100, 3110))
def test_a_batch_that_all_devices_divide_is_left_alone(seed: int) -> None:
    problem = random_problem(seed)
    training = problem.training.model_copy(update={"global_batch": 2 * problem.cluster.devices})
    try:
        found = search_job(problem.model, problem.cluster, training, runners_up=0)
    except (SpecError, InfeasibleError):
        return
    assert not _offered(found.notes)
