"""Mixes with activations on the host against every mix there is, on random small stages."""

from itertools import product

import numpy as np
import pytest

from shardwright.base import Array, IntArray
from shardwright.planner.mixes.offload_mix import OffloadMixSolver
from shardwright.planner.mixes.recompute_mix import Room
from shardwright.planner.stages.offload_partition import _steps


def _solver(chance: np.random.Generator, classes: int) -> OffloadMixSolver:
    """Two policies, a quarter, three quarters or all of the tokens on the host; copies cost more and more for each byte."""
    shares = np.array([0, 0.25, 0.75, 1.0])
    kept = chance.uniform(4, 10, (classes, 1)) * np.array([1.0, 0.1])
    stays = np.concatenate([kept[:, :1] * (1 - shares), kept[:, 1:] * (1 - shares)], axis=1)
    goes = np.concatenate([kept[:, :1] * shares, kept[:, 1:] * shares], axis=1)
    again = np.repeat([0.0, 1.0], 4) * chance.uniform(0.5, 2, (classes, 1))
    seconds = chance.uniform(1, 2, (classes, 1)) + again + goes * chance.uniform(0.01, 0.3) + goes**2 * 0.02
    working = chance.uniform(1, 2, (classes, 1)) + (goes > 0) * 2 * goes
    return OffloadMixSolver(seconds, stays, working, goes, list(range(8)))


def _every_mix(solver: OffloadMixSolver, layers: IntArray) -> Array:
    """(T, K, P): all mixes of `layers` (K,)."""
    of_classes = [
        [
            np.bincount(choice, minlength=8)
            for choice in product(range(8), repeat=int(count))
            if list(choice) == sorted(choice)
        ]
        for count in layers
    ]
    return np.array([np.stack(choice) for choice in product(*of_classes)])


def _cheapest(solver: OffloadMixSolver, layers: IntArray, moving: float, alive: float, host: float) -> float:
    mixes = _every_mix(solver, layers)
    used = np.where(mixes > 0, solver.working, 0.0).max(axis=(1, 2))
    kept, on_host, seconds = ((mixes * part).sum(axis=(1, 2)) for part in (solver.kept, solver.on_host, solver.seconds))
    fits = (alive * kept + used <= moving) & (alive * on_host <= host)
    return float(np.where(fits, seconds, np.inf).min())


@pytest.mark.parametrize("seed", range(60))
def test_the_bound_is_below_every_mix_and_the_found_mix_fits(seed: int) -> None:
    """And it is no more than one layer's dearest step above the bound, where the host has room."""
    chance = np.random.default_rng(seed)
    classes = int(chance.integers(1, 3))
    solver, layers = _solver(chance, classes), chance.integers(1, 4, classes)
    most = float(layers @ solver.kept.max(axis=1))
    alive, moving = float(chance.integers(1, 4)), float(chance.uniform(0.1, 1.3)) * most + 4
    host = np.inf if seed % 3 else float(chance.uniform(0.1, 1.0)) * most
    room = Room(np.array([[moving]]), np.array([alive]), np.zeros(1), np.zeros(1), host=np.array([[host]]))
    found, least = solver.solve(layers[None], room), float(solver.least(layers[None], room)[0, 0])
    expected, mix = _cheapest(solver, layers, moving, alive, host), found.counts[0, 0]
    assert least <= expected * (1 + 1e-9)
    assert least == pytest.approx(found.least[0, 0]) or not np.isfinite(found.seconds[0, 0]) or host < np.inf
    if np.isfinite(found.seconds[0, 0]):
        assert expected <= found.seconds[0, 0] * (1 + 1e-9)
        assert found.seconds[0, 0] == pytest.approx((mix * solver.seconds).sum())
        np.testing.assert_array_equal(mix.sum(axis=1), layers)
        used = solver.working[mix > 0].max()
        assert alive * (mix * solver.kept).sum() + used <= moving * (1 + 1e-12)
        assert alive * (mix * solver.on_host).sum() <= host * (1 + 1e-12)
    if host == np.inf:
        assert np.isfinite(found.seconds[0, 0]) == np.isfinite(expected)
        steps = np.ptp(solver.seconds, axis=1).max()
        assert not np.isfinite(expected) or found.seconds[0, 0] <= least + steps


def test_copies_that_hide_are_chosen_before_recompute() -> None:
    """A byte of the first quarter costs 0.1 s, of the rest 10 s; recompute frees 9 bytes for 2 s."""
    seconds, kept = np.array([[1.0, 1.25, 76.25, 3.0]]), np.array([[10.0, 7.5, 0.0, 1.0]])
    solver = OffloadMixSolver(seconds, kept, np.zeros((1, 4)), 10 - kept - [[0, 0, 0, 9]], [0, 1, 2, 3])
    for room, mix in (
        (100, [10, 0, 0, 0]),
        (90, [6, 4, 0, 0]),
        (75, [0, 10, 0, 0]),
        (62, [0, 8, 0, 2]),
        (10, [0, 0, 0, 10]),
    ):
        limit = Room(np.array([[float(room)]]), np.ones(1), np.zeros(1), np.zeros(1))
        assert solver.solve(np.array([[10]]), limit).counts[0, 0, 0].tolist() == mix


def test_what_lies_between_two_mixes_moves_one_layer_at_a_time() -> None:
    found = _steps(np.array([[2, 1, 0]]), np.array([[0, 1, 2]]))
    assert [mix.tolist() for mix in found] == [[[1, 1, 1]], [[0, 1, 2]]]
