"""The integer-program solver: HiGHS, or CBC where HiGHS is not installed. Imported by nothing on the way to a plan."""

from dataclasses import dataclass
from typing import Any

import pulp


@dataclass(frozen=True)
class Solution:
    """`objective` of the best solution found, None where there is none; `bound` that no solution is below."""

    solver: str
    objective: float | None
    bound: float
    optimal: bool


def variable(
    problem: Any, name: str, low: float | None = None, high: float | None = None, *, kind: str = "Continuous"
) -> Any:
    """A new variable of `problem`, `kind` as PuLP names it. PuLP 3.3 has problems make them, older ones don't."""
    if hasattr(problem, "add_variable"):
        return problem.add_variable(name, low, high, cat=kind)
    return pulp.LpVariable(name, low, high, cat=kind)


def solve(problem: Any, *, time_limit_seconds: float) -> Solution:
    """Minimise a PuLP problem."""
    highs = pulp.HiGHS(msg=False, timeLimit=time_limit_seconds, gapRel=1e-9)
    solver = highs if highs.available() else pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_seconds, gapRel=1e-9)
    problem.solve(solver)
    name = "HiGHS" if solver is highs else "CBC"
    optimal = problem.sol_status == pulp.LpSolutionOptimal
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    objective = float(pulp.value(problem.objective)) if found else None
    if optimal and objective is not None:
        return Solution(name, objective, objective, True)
    proven = problem.solverModel.getInfo().mip_dual_bound if name == "HiGHS" else float("-inf")
    return Solution(name, objective, proven, False)
