"""Bounds that stop at a limit are sharpened beyond it when they are asked for again, and large spaces are priced on demand."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.best_plan import search
from shardwright.planner.bounds.entry_bounds import least_bounds, lower_bounds, quick_bounds
from shardwright.planner.branching import open_entries
from shardwright.planner.branching.open_entries import OpenEntries
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.stages.solve_entry import EntrySolver
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import random_problem, tiny_cluster, tiny_model


def _solver(seed: int) -> EntrySolver:
    model, cluster, training = random_problem(seed)
    space = enumerate_space(model, cluster, training)
    return EntrySolver.of(space_costs(space, model, training, op_times(cluster, training)), model)


def _comparable(result: SearchResult) -> SearchResult:
    """The result without its effort, and without other meshes: the first entry out of turn may be another one. How many entries in
    another order of the axes count depends on the bounds at hand."""
    return replace(result, seconds=0.0, candidates_solved=0, candidates_total=0, runners_up=())


@pytest.mark.parametrize("seed", range(12))
def test_a_limit_hides_no_bound(seed: int) -> None:
    solver = _solver(seed)
    sharp = lower_bounds(solver.costs, solver.ranges, solver.allowed)
    if not np.isfinite(sharp).any():
        return
    limit, every = float(np.median(sharp[np.isfinite(sharp)])), np.arange(len(sharp))
    entries = OpenEntries.of(solver)
    quick = entries.bounds.copy()
    entries.sharpen(every, limit)
    below, expected = sharp < limit * (1 - 1e-4), np.maximum(sharp, quick)
    assert entries.bounds[below] == pytest.approx(expected[below], rel=1e-4)
    assert (entries.bounds[~below] >= limit * (1 - 2e-4)).all()
    entries.sharpen(every)
    assert entries.bounds == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(12))
class TestOnDemand:
    def test_the_order_is_that_of_a_space_priced_at_once(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = list(OpenEntries.of(_solver(seed)).ascending())
        monkeypatch.setattr(open_entries, "_FIRST_PRICED", 1)
        found = OpenEntries.of(_solver(seed))
        assert not found.quick.all()
        assert set(found.ascending()) == set(expected)
        assert np.isfinite(found.bounds[expected]).all()

    def test_the_plan_is_the_same(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = search(*random_problem(seed), tolerance=0.02, list_trade_offs=True, runners_up=0)
        monkeypatch.setattr(open_entries, "_FIRST_PRICED", 1)
        found = search(*random_problem(seed), tolerance=0.02, list_trade_offs=True, runners_up=0)
        assert _comparable(found) == _comparable(expected)

    def test_rows_do_not_depend_on_what_is_priced_with_them(self, seed: int) -> None:
        at_once, in_turn = _solver(seed).costs.rows, _solver(seed).costs.rows
        every = np.arange(len(at_once[:].send))
        for some in (every[1::3], every[::2], every):
            assert (in_turn[some].backward.layers == at_once[some].backward.layers).all()
            assert (in_turn[some].last_backward.last == at_once[some].last_backward.last).all()
            assert (in_turn[some].send == at_once[some].send).all()
        assert in_turn[int(every[-1])].slack == at_once[int(every[-1])].slack

    def test_the_least_costs_bound_the_quick_bounds(self, seed: int) -> None:
        solver = _solver(seed)
        least, quick = (bounds(solver.costs, solver.ranges, solver.allowed) for bounds in (least_bounds, quick_bounds))
        assert (least <= quick).all()
        assert (least > 0).all()


@pytest.mark.parametrize("most", [1, 7, 64])
def test_the_lowest_are_those_of_all_sharp_bounds(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_entries, "SHARPENED_AT_ONCE", 8)
    solver = _solver(3)
    every = OpenEntries.of(solver)
    every.sharpen(np.arange(len(every.bounds)))
    seconds = float(np.median(every.bounds[np.isfinite(every.bounds)]))
    expected = np.sort(every.bounds[every.bounds < seconds])[:most]
    entries = OpenEntries.of(solver)
    found = entries.lowest_below(seconds, most)
    assert len(expected) == min(most, len(found))
    assert every.bounds[found] == pytest.approx(expected, rel=1e-4)
    assert most > 7 or not entries.sharp.all()


def test_breadth_first_entries_keep_every_microbatch_in_the_quick_bound() -> None:
    """32 microbatches of a rank do not fit beside each other; interleaved, a rank has a few at a time."""
    model, cluster = tiny_model(layers=8, hidden=1024), tiny_cluster(devices=4, memory_bytes=1.5e9)
    training = TrainingSpec(seq_len=4096, global_batch=64)
    for schedule, fits in (("breadth-first", False), ("interleaved-1f1b", True)):
        choices = {"pp": 2, "dp_shard": 2, "stages_per_rank": 2, "micro_batch": 1, "zero_stage": 3}
        space = enumerate_space(model, cluster, training, Fixed.parse({"schedule": schedule, **choices}, source="test"))
        solver = EntrySolver.of(space_costs(space, model, training, op_times(cluster, training)), model)
        assert (np.isfinite(quick_bounds(solver.costs, solver.ranges, solver.allowed)) == fits).all()
