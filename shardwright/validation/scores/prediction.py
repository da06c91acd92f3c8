"""The cost model and the planner for validation: one plan's estimate, and the choice of what a row leaves unknown."""

from collections.abc import Callable, Sequence

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel import EstimatePlan, Prediction, fastest, predict
from shardwright.planner import search
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec
from shardwright.validation.rows import MeasuredRun

ChoosePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Fixed], Plan]

_SEARCH_SECONDS = 5.0
_ALIKE = 0.01  # share of a step by which repeated runs differ


def predict_run(run: MeasuredRun, estimate: EstimatePlan, choose: ChoosePlan) -> Prediction:
    """Estimate the plan of a run. `choose` chooses what the row leaves unknown, and keeps the rest.

    If nothing fits although the run ran, the plan that needs the least memory stands for it. If the planner cannot
    keep what the row states, the fastest of its even plans stands for it.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster.
    """
    job = (run.model, run.cluster, run.training)
    if not run.unknown:
        return fastest(*job, run.plans, estimate)
    found, plans = [], run.plans
    for fixed in run.fixed:
        try:
            found.append(predict(*job, choose(*job, fixed), estimate))
        except InfeasibleError:
            smallest = min(plan.micro_batch for plan in plans)  # the plan of least memory
            plans = tuple(plan for plan in plans if plan.micro_batch == smallest)
        except SpecError:  # the row's own plans then say why, or show that only the planner cannot keep them
            continue
    if found:
        best, how = _roomiest_of_the_fastest(found), "chosen by the planner"
    else:
        best = fastest(*job, plans, estimate)
        how = "the fastest even plan" if best.too_large is None else "the least memory, as nothing is predicted to fit"
    return best._replace(assumptions=tuple(f"{name}: {how}" for name in run.unknown))


def _roomiest_of_the_fastest(found: Sequence[Prediction]) -> Prediction:
    """Among predictions of indistinguishable time, the one that leaves most memory, as a person would choose."""
    fastest_seconds = min(one.estimate.step_seconds for one in found)
    alike = [one for one in found if one.estimate.step_seconds <= (1 + _ALIKE) * fastest_seconds]
    return min(alike, key=lambda one: one.estimate.peak_memory_bytes)


def planners_choice(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    """The choice of `shardwright plan`.

    Raises:
        SpecError: nothing divides, or the planner does not search what is fixed.
        InfeasibleError: nothing fits.
    """
    found = search(model, cluster, training, fixed=fixed, time_limit_seconds=_SEARCH_SECONDS, runners_up=0)
    return found.plan
