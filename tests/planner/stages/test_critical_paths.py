"""Paths that are known beforehand, and paths found in one plan, are paths of every plan of their shape."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.costmodel.pipeline.step import step_seconds
from shardwright.planner.stages.critical_paths import CLOSED, CriticalPaths
from shardwright.specs.schedules import ScheduleName


def _random_costs(seed: int, pp: int, stages: int, *, spread: float = 1.0) -> StageCosts:
    chance = np.random.default_rng(seed)

    def near(mean: float, width: int) -> np.ndarray:
        return mean * (1 + spread * chance.uniform(-0.9, 0.9, (40, width)))

    return StageCosts(
        pp=pp,
        forward=near(1.0, stages),
        backward=near(2.0, stages) + 2.0,
        weight_gradient=near(1.0, stages),
        first_forward_extra=near(0.2, stages),
        send=near(0.1, stages - 1),
        reduce_tail=near(0.5, stages),
        optimizer=near(0.3, pp),
    )


SHAPES: list[tuple[ScheduleName, int, int, int]] = [
    ("interleaved-1f1b", 2, 2, 2),
    ("interleaved-1f1b", 2, 5, 4),
    ("interleaved-1f1b", 3, 2, 6),
    ("interleaved-1f1b", 4, 2, 4),
    ("interleaved-1f1b", 4, 3, 12),
    ("breadth-first", 2, 2, 3),
    ("breadth-first", 3, 3, 8),
    ("1f1b", 2, 1, 1),
    ("1f1b", 2, 1, 3),
    ("1f1b", 4, 1, 4),
    ("1f1b", 4, 1, 5),
    ("1f1b", 5, 1, 23),
    ("gpipe", 4, 1, 7),
    ("zb-h1", 4, 1, 6),
    ("zb-2p", 3, 1, 9),
    ("zb-v", 4, 2, 9),
    ("v-half", 4, 2, 9),
    ("v-min", 4, 2, 9),
    # so many microbatches that fewer show how a path repeats
    ("zb-h1", 4, 1, 601),
    ("v-half", 4, 2, 600),
    ("v-min", 3, 2, 801),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_path_is_longer_than_the_step(shape: tuple[ScheduleName, int, int, int]) -> None:
    schedule, pp, chunks, microbatches = shape
    costs = _random_costs(1, pp, pp * chunks)
    paths, exact = CriticalPaths.of(*shape), step_seconds(schedule, costs, microbatches)
    known = len(paths.counts)
    assert (paths.bounds(costs).seconds() <= exact * (1 + 1e-9)).all()
    assert paths.find(costs[3]) == pytest.approx(exact[3] - costs.optimizer[3].max())
    assert len(paths.counts) == known + 1
    bounds = paths.bounds(costs).seconds()
    assert (bounds <= exact * (1 + 1e-9)).all()
    assert bounds[3] == pytest.approx(exact[3], rel=1e-4)


@pytest.mark.parametrize("shape", [("1f1b", 4, 1, 32), ("interleaved-1f1b", 4, 2, 32)])
def test_known_paths_are_nearly_the_longest_where_stages_are_even(shape: tuple[ScheduleName, int, int, int]) -> None:
    schedule, pp, chunks, microbatches = shape
    costs = _random_costs(2, pp, pp * chunks, spread=0.01)
    bounds, exact = CriticalPaths.of(*shape).bounds(costs).seconds(), step_seconds(schedule, costs, microbatches)
    assert (bounds >= 0.99 * exact).all()


def test_a_round_trip_by_hand() -> None:
    """Two stages, four microbatches, f = 1, b = 2, c = 0.5: F0 F1 B1 B0, and twice more from the gradient's return.

    A trip takes 3 + 3 + 1 s and two microbatches. The first stage runs F0(2) after B0(0), and F0(3) after B0(1).
    """
    costs = StageCosts(pp=2, forward=[[1.0, 1.0]], backward=[[2.0, 2.0]], send=0.5)
    trips = 7 + 3 + 7  # microbatch 0, single microbatch 1 on the first stage, microbatch 3
    paths = CriticalPaths.of("1f1b", 2, 1, 4)
    assert paths.bounds(costs).seconds()[0] == pytest.approx(trips)
    assert step_seconds("1f1b", costs, 4)[0] == pytest.approx(trips)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fastest_of_many(shape: tuple[ScheduleName, int, int, int]) -> None:
    schedule, pp, chunks, microbatches = shape
    costs = _random_costs(3, pp, pp * chunks, spread=0.1)
    exact = step_seconds(schedule, costs, microbatches)
    best, seconds, bound = CriticalPaths.of(*shape).fastest(costs, np.inf)
    assert seconds == exact[best]
    assert exact.min() >= seconds * (1 - CLOSED)
    assert bound <= exact.min() * (1 + 1e-12)
    assert bound >= seconds * (1 - CLOSED)
    assert CriticalPaths.of(*shape).fastest(costs, exact.min() * 0.2)[1] >= exact.min()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("spread", "exact", "within"), [(0.01, False, 5e-4), (2e-4, True, 0.0)])
def test_how_near_the_fastest_is(
    shape: tuple[ScheduleName, int, int, int], spread: float, exact: bool, within: float
) -> None:
    """Plans that differ by little are told apart, to the last digit where that is asked for."""
    schedule, pp, chunks, microbatches = shape
    costs = _random_costs(4, pp, pp * chunks, spread=spread)
    least = step_seconds(schedule, costs, microbatches).min()
    _, seconds, bound = CriticalPaths.of(*shape).fastest(costs, np.inf, exact=exact)
    assert least <= seconds <= least * (1 + within)
    assert bound <= least


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_is_of_the_shorter_tails(shape: tuple[ScheduleName, int, int, int]) -> None:
    schedule, pp, chunks, microbatches = shape
    costs = _random_costs(5, pp, pp * chunks, spread=0.05)
    least = replace(costs, reduce_tail=0.5 * costs.reduce_tail)
    _, seconds, bound = CriticalPaths.of(*shape).fastest(costs, np.inf, least, exact=True)
    assert seconds == step_seconds(schedule, costs, microbatches).min()
    lowest = step_seconds(schedule, least, microbatches).min()
    assert lowest - 0.5 * chunks <= bound <= lowest * (1 + 1e-12)
