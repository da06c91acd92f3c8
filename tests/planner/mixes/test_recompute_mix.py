"""Recompute mixes against every mix."""

from itertools import product

import numpy as np
import pytest

from shardwright.planner.mixes.recompute_mix import MixSolver, Room, allowed_strategies, useful_policies
from shardwright.planner.space.fixed import Fixed


def _every_mix(layers: np.ndarray, solver: MixSolver, room: Room, place: tuple[int, int]) -> float:
    """The cheapest of all splits of every class over the allowed policies."""
    position, kind = place
    splits = [
        [split for split in product(range(count + 1), repeat=solver.seconds.shape[1]) if sum(split) == count]
        for count in layers.tolist()
    ]
    best = np.inf
    for choice in product(*splits):
        counts = np.array(choice)
        forbidden = [policy for policy in range(solver.seconds.shape[1]) if policy not in solver.allowed]
        if counts[:, forbidden].any():
            continue
        kept = room.alive[position] * ((counts * solver.kept).sum() + room.end_kept[position])
        working = max(np.where(counts > 0, solver.working, 0.0).max(), room.end_working[position])
        if kept + working <= room.moving[position, kind]:
            best = min(best, float((counts * solver.seconds).sum()))
    return best


@pytest.mark.parametrize("policies", [3, 4, 5])
@pytest.mark.parametrize("seed", range(60))
def test_equals_every_mix(seed: int, policies: int) -> None:
    chance = np.random.default_rng(seed)
    classes = 1 + seed % 3 if policies == 3 else 1 + seed % 2
    shape = (classes, policies)
    seconds = np.sort(chance.uniform(1, 3, shape), axis=1) if seed % 2 else chance.uniform(1, 3, shape)
    solver = MixSolver(
        seconds=seconds,
        kept=chance.uniform(0.5, 10, shape),
        working=chance.uniform(0.5, 10, shape),
        allowed=list(range(policies)) if seed % 4 else [0, 2],
    )
    layers = chance.integers(0, 4, (3, classes))
    room = Room(
        moving=chance.uniform(5, 100, (2, 3)),
        alive=np.array([3.0, 1.0]),
        end_kept=chance.uniform(0, 1, 2),
        end_working=chance.uniform(0, 8, 2),
    )
    found = solver.solve(layers, room)
    for position, kind in product(range(2), range(3)):
        expected = _every_mix(layers[kind], solver, room, (position, kind))
        assert found.seconds[position, kind] == pytest.approx(expected)
        if np.isfinite(expected):
            assert (found.counts[position, kind].sum(axis=1) == layers[kind]).all()
            assert (found.counts[position, kind] * seconds).sum() == pytest.approx(expected)


def test_uses_no_recomputation_where_all_fits() -> None:
    solver = MixSolver(
        np.array([[1.0, 1.2, 1.5]]), np.array([[10.0, 6.0, 1.0]]), np.array([[1.0, 2.0, 9.0]]), [0, 1, 2]
    )
    room = Room(np.array([[41.0]]), np.array([1.0]), np.zeros(1), np.zeros(1))
    assert solver.solve(np.array([[4]]), room).counts.tolist() == [[[[4, 0, 0]]]]


def test_a_policy_that_works_in_too_much_is_left_out() -> None:
    solver = MixSolver(
        np.array([[1.0, 1.2, 1.5]]), np.array([[10.0, 6.0, 1.0]]), np.array([[1.0, 2.0, 9.0]]), [0, 1, 2]
    )
    # One full layer would do for what is kept (31) but its working memory (9) takes more than it saves.
    room = Room(np.array([[39.0]]), np.array([1.0]), np.zeros(1), np.zeros(1))
    assert solver.solve(np.array([[4]]), room).counts.tolist() == [[[[3, 1, 0]]]]


def test_useful_policies_keep_one_of_two_equals() -> None:
    measures = np.array([[[1.0, 1.0, 2.0]], [[5.0, 5.0, 5.0]]])
    assert useful_policies(measures, [0, 1, 2]).tolist() == [[True, False, False]]
    assert useful_policies(measures, [1, 2]).tolist() == [[False, True, False]]


def test_allowed_strategies() -> None:
    assert allowed_strategies(Fixed()) == [0, 1, 2]
    assert allowed_strategies(Fixed(recompute="full")) == [2]
    assert allowed_strategies(Fixed.model_validate({"within": {"recompute": "none,full"}})) == [0, 2]
