"""The planner's own sums of memory and seconds are the cost model's."""

import numpy as np
import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.memory import usable_bytes
from shardwright.planner.mixes.recompute_mix import MixSolver
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.ranges import layer_ranges
from shardwright.planner.stages.solve_entry import Solved, plan_of
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.planner.stages.tables import mix_solver, stage_room, stage_tables
from tests.planner.small_problems import random_problem


@pytest.mark.parametrize("seed", range(40))
def test_fits_and_seconds_are_the_cost_models(seed: int) -> None:
    problem, chance = random_problem(seed), np.random.default_rng(seed)
    space = enumerate_space(*problem)
    costs = space_costs(space, problem.model, problem.training, op_times(problem.cluster, problem.training))
    for entry in chance.choice(len(space), size=6):
        staged = StagedEntry(costs.entry(int(entry)), layer_ranges(problem.model))
        stages, layers = staged.entry.stages, problem.model.layer_count
        cuts = np.sort(chance.choice(np.arange(1, layers), size=stages - 1, replace=False))
        sizes = tuple(np.diff(np.concatenate([[0], cuts, [layers]])).astype(int).tolist())
        counts = staged.counts(sizes)
        mix = np.stack([[chance.multinomial(held, [1 / 3] * 3) for held in stage] for stage in counts])
        plan = plan_of(Solved(int(entry), sizes, mix, 0.0), space, problem.model)
        estimate = estimate_plan(*problem, plan)
        assert staged.seconds(mix[None])[0] == pytest.approx(estimate.step_seconds)
        node = problem.cluster.groups[0]
        for rank in range(staged.entry.pp):
            fits = staged.fits(rank, counts[rank :: staged.entry.pp], mix[None, rank :: staged.entry.pp])[0]
            host = estimate.host_bytes[rank] <= node.host.memory_bytes / node.devices_per_node
            assert fits == (host and estimate.memory[rank].total <= usable_bytes(node.device, CALIBRATED))


@pytest.mark.parametrize("seed", range(40))
def test_room_of_a_stage_is_where_its_mixes_fit(seed: int) -> None:
    """What the tables call fitting fits, and a place that they leave empty holds no single-policy stage."""
    problem, chance = random_problem(seed), np.random.default_rng(seed)
    space = enumerate_space(*problem)
    costs = space_costs(space, problem.model, problem.training, op_times(problem.cluster, problem.training))
    ranges = layer_ranges(problem.model)
    plain = np.flatnonzero(space.stages_per_rank == 1)
    for entry in chance.choice(plain, size=6):
        staged = StagedEntry(costs.entry(int(entry)), ranges)
        tables = stage_tables(staged.entry, ranges, [0, 1, 2])
        for rank in range(staged.entry.pp):
            for kind, counts in enumerate(ranges.counts):
                if tables.feasible[rank, kind]:
                    assert staged.fits(rank, counts[None], tables.mix[None, rank, kind][None])[0]
                else:
                    single = np.zeros((3, 1, *tables.mix.shape[2:]), dtype=np.int64)
                    single[np.arange(3), 0, :, np.arange(3)] = counts
                    assert not staged.fits(rank, counts[None], single).any()


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_several_ranks_fit_as_each_alone(seed: int) -> None:
    problem, chance = random_problem(seed), np.random.default_rng(seed)
    space = enumerate_space(*problem)
    costs = space_costs(space, problem.model, problem.training, op_times(problem.cluster, problem.training))
    for entry in chance.choice(len(space), size=4):
        staged = StagedEntry(costs.entry(int(entry)), layer_ranges(problem.model))
        pp, chunks = staged.stages.shape
        counts = chance.integers(0, 3, (6, chunks, staged.entry.rows.classes))
        ranks = chance.integers(0, pp, 6)
        mixes = np.stack([[[chance.multinomial(n, [1 / 3] * 3) for n in c] for c in each] for each in counts])[:, None]
        alone = [staged.fits(int(rank), *held) for rank, *held in zip(ranks, counts, mixes, strict=True)]
        assert (staged.each_fits(ranks, counts, mixes) == np.stack(alone)).all()


def test_solver_weighs_the_tail_without_a_pipeline_only() -> None:
    problem = random_problem(0)
    space = enumerate_space(*problem)
    costs = space_costs(space, problem.model, problem.training, op_times(problem.cluster, problem.training))
    for entry in range(len(space)):
        one = costs.entry(entry)
        solver = mix_solver(one, [0, 1, 2])
        assert isinstance(solver, MixSolver)
        tail = one.rows.last_backward.layers if one.pp == 1 else 0.0
        times = one.microbatches if one.pp == 1 else 1
        assert solver.seconds == pytest.approx(times * one.rows.backward.layers + tail)
    assert stage_room(costs.entry(0), layer_ranges(problem.model).counts).moving.shape[0] == costs.entry(0).pp
