"""The mixed-integer program against every placement and every mix, with shares in eighths; its relaxation; both solvers.

OFFLOAD_CASES=300 tries more problems than CI does.
"""

import os
import random
from itertools import combinations_with_replacement, product

import numpy as np
import pulp
import pytest

from shardwright.base import Array, IntArray, SpecError
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.limits import SHARES
from shardwright.planner.stages.solve_entry import EntrySolver
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.planner.why.offload_program import OffloadProgram
from tests.planner.small_problems import random_problem

_CASES = int(os.environ.get("OFFLOAD_CASES", "16"))
_MOST_LAYERS = 3
_MOST_PLACEMENTS = 16
_KEPT = ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep", "etp", "micro_batch", "zero_stage")


def _programs() -> list[tuple[int, OffloadProgram, EntrySolver]]:
    """As many problems as are asked for, with all shares open, each with the other choices of some entry and some partition."""
    found: list[tuple[int, OffloadProgram, EntrySolver]] = []
    seed = 0
    while len(found) < _CASES:
        seed += 1
        program = _program(seed)
        if program is not None:
            found.append((seed, *program))
    return found


def _program(seed: int) -> tuple[OffloadProgram, EntrySolver] | None:
    problem, chance = random_problem(seed), random.Random(seed)
    if problem.model.layer_count > _MOST_LAYERS:
        return None
    group = problem.cluster.groups[0]
    drives = {
        "nvme_bytes": problem.model.parameter_count * 10.0,
        "nvme_read_bytes_per_s": 4e9,
        "nvme_write_bytes_per_s": 2e9,
    }
    host = group.host.model_copy(update=drives)
    cluster = problem.cluster.model_copy(update={"groups": (group.model_copy(update={"host": host}),)})
    limits = dict.fromkeys(SHARES, "0..1") | {"recompute": "none,full"}
    if chance.random() < 0.5:
        limits |= {"offload_nvme": "0", "offload_parameters": "0,0.5,1"}
    try:
        space = enumerate_space(problem.model, cluster, problem.training, Fixed(schedule="1f1b", within=limits))
    except SpecError:
        return None
    entry = chance.randrange(len(space))
    alike = np.all([space.column(name) == space.column(name)[entry] for name in _KEPT], axis=0)
    entries = np.flatnonzero(alike)
    if len(entries) > _MOST_PLACEMENTS:
        entries = np.array(sorted(chance.sample(entries.tolist(), _MOST_PLACEMENTS)))
    costs = space_costs(space, problem.model, problem.training, op_times(cluster, problem.training))
    solver = EntrySolver.of(costs, problem.model)
    pp, layers = int(space.column("pp")[entry]), problem.model.layer_count
    cuts = sorted(chance.sample(range(1, layers), pp - 1))
    sizes = np.diff([0, *cuts, layers])
    return OffloadProgram(costs, entries, solver.ranges.held(sizes), solver.allowed), solver


PROGRAMS = _programs()


@pytest.mark.parametrize(
    ("program", "solver"), [case[1:] for case in PROGRAMS], ids=[str(case[0]) for case in PROGRAMS]
)
class TestAgainstEveryPlacement:
    def test_the_program_equals_brute_force(self, program: OffloadProgram, solver: EntrySolver) -> None:
        """With one stage. Of several stages the paths that wait at one are a lower bound, as in the certificate of partitions."""
        expected, found = _fastest(program, solver), program.solve()
        assert found.optimal
        if expected == np.inf:
            assert found.objective is None or len(program.layers) > 1
        elif len(program.layers) == 1:
            assert found.objective == pytest.approx(expected, rel=1e-6)
        else:
            assert found.objective is not None
            # the farthest of 40 problems: 0.876
            assert 0.85 * expected <= found.objective <= expected * (1 + 1e-6)

    def test_the_relaxation_is_not_above_it(self, program: OffloadProgram, solver: EntrySolver) -> None:
        whole, relaxed = program.solve(), program.solve(relaxed=True)
        assert relaxed.bound <= whole.bound * (1 + 1e-6)

    def test_both_solvers_agree(self, program: OffloadProgram, solver: EntrySolver) -> None:
        if not pulp.PULP_CBC_CMD(msg=False).available():
            pytest.skip("CBC is not installed")
        one, other = program.solve(solver="HiGHS"), program.solve(solver="CBC")
        assert (one.solver, other.solver) in (("HiGHS", "CBC"), ("none", "none"))
        steps = [np.inf if each.objective is None else each.objective for each in (one, other)]
        assert steps[0] == pytest.approx(steps[1], rel=1e-6)


def test_the_cases_are_not_all_easy() -> None:
    """Some fit nowhere, some put activations on the host, some are pipelines."""
    steps = [_fastest(program, solver) for _, program, solver in PROGRAMS]
    assert 0 < sum(map(np.isinf, steps)) < len(steps)
    assert any(len(program.layers) > 1 for _, program, _ in PROGRAMS)


def _fastest(program: OffloadProgram, solver: EntrySolver) -> float:
    """The step of the fastest placement and mix by the cost model's own sums; infinite where none fits."""
    mixes, best = _every_mix(program), np.inf
    for entry in program.entries:
        staged = StagedEntry(program.costs.entry(int(entry)), solver.ranges)
        fits = staged.ranks_fit(mixes).all(axis=1)
        if fits.any():
            best = min(best, float(staged.seconds(mixes[fits]).min()))
    return best


def _every_mix(program: OffloadProgram) -> IntArray:
    """(T, S, K, P): every way to give the layers of each stage and class strategies."""
    width = program.costs.entry(int(program.entries[0])).rows.policies
    cells: list[list[Array]] = []
    for held in program.layers.flat:
        choices = combinations_with_replacement(program.allowed, int(held))
        cells.append([np.bincount(np.array(choice, dtype=np.int64), minlength=width) for choice in choices])
    return np.array([np.stack(choice).reshape(*program.layers.shape, width) for choice in product(*cells)])
