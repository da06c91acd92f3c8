"""The integer-program solver: HiGHS, or CBC where HiGHS is not installed. `plan` does not import this file."""

from dataclasses import dataclass
from typing import Any, Literal

import pulp

SolverName = Literal["HiGHS", "CBC"]


@dataclass(frozen=True)
class Solution:
    """`objective` of the best solution found, None where there is none; `bound`, a lower bound on all solutions, infinite where there
    are none."""

    solver: str
    objective: float | None
    bound: float
    optimal: bool


def available_solvers() -> tuple[SolverName, ...]:
    """Return the solvers that can run here, the preferred one first."""
    solvers: dict[SolverName, Any] = {"HiGHS": pulp.HiGHS, "CBC": pulp.PULP_CBC_CMD}
    return tuple(name for name, solver in solvers.items() if solver(msg=False).available())


def variable(
    problem: Any, name: str, low: float | None = None, high: float | None = None, *, kind: str = "Continuous"
) -> Any:
    """Return a new variable of `problem`, with `kind` as PuLP names it.

    In PuLP 3.3 the problem makes its variables; older versions don't offer that.
    """
    if hasattr(problem, "add_variable"):
        return problem.add_variable(name, low, high, cat=kind)
    return pulp.LpVariable(name, low, high, cat=kind)


def solve(problem: Any, *, time_limit_seconds: float, solver: SolverName | None = None) -> Solution:
    """Minimise a PuLP problem, by the named solver or by the first that is there."""
    highs = pulp.HiGHS(msg=False, timeLimit=time_limit_seconds, gapRel=1e-9)
    name: SolverName = solver or ("HiGHS" if highs.available() else "CBC")
    cbc = pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_seconds, gapRel=1e-9)
    problem.solve(highs if name == "HiGHS" else cbc)
    if problem.status == pulp.LpStatusInfeasible:
        return Solution(name, None, float("inf"), True)
    optimal = problem.sol_status == pulp.LpSolutionOptimal
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    objective = float(pulp.value(problem.objective)) if found else None
    if optimal and objective is not None:
        return Solution(name, objective, objective, True)
    proven = problem.solverModel.getInfo().mip_dual_bound if name == "HiGHS" else float("-inf")
    return Solution(name, objective, proven, False)
