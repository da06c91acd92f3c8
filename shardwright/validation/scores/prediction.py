"""The cost model and the planner as benchmarks call them: one plan's estimate, and the choice of what a row leaves unknown."""

from collections.abc import Callable, Sequence

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel import EstimatePlan, Prediction, fastest, predict
from shardwright.planner import search
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec
from shardwright.validation.rows import RowSetup

ChoosePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Fixed], Plan]

_SEARCH_SECONDS = 5.0
_ALIKE = 0.01  # of a step: what repeated runs differ by


def predict_setup(setup: RowSetup, estimate: EstimatePlan, choose: ChoosePlan) -> Prediction:
    """Estimate the plan of a row. What it leaves unknown is chosen by `choose`, with all else kept.

    Where nothing fits although the run ran, the plan that needs the least memory stands for it; where the planner cannot
    keep what the row states, the fastest of its even plans.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster.
    """
    job = (setup.model, setup.cluster, setup.training)
    if not setup.unknown:
        return fastest(*job, setup.plans, estimate)
    found, plans = [], setup.plans
    for fixed in setup.fixed:
        try:
            found.append(predict(*job, choose(*job, fixed), estimate))
        except InfeasibleError:
            smallest = min(plan.micro_batch for plan in plans)  # the least memory is there
            plans = tuple(plan for plan in plans if plan.micro_batch == smallest)
        except SpecError:  # the row's own plans will say it, or show that the planner alone cannot keep them
            continue
    if found:
        best, how = _roomiest_of_the_fastest(found), "chosen by the planner"
    else:
        best = fastest(*job, plans, estimate)
        how = "the fastest even plan" if best.too_large is None else "the least memory, as nothing is predicted to fit"
    return best._replace(assumptions=tuple(f"{name}: {how}" for name in setup.unknown))


def _roomiest_of_the_fastest(found: Sequence[Prediction]) -> Prediction:
    """Of predictions that no one could tell apart by time, the one that leaves most memory: so would a person choose."""
    fastest_seconds = min(one.estimate.step_seconds for one in found)
    alike = [one for one in found if one.estimate.step_seconds <= (1 + _ALIKE) * fastest_seconds]
    return min(alike, key=lambda one: one.estimate.peak_memory_bytes)


def planners_choice(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    """What `shardwright plan` would choose.

    Raises:
        SpecError: nothing divides, or the planner does not search what is fixed.
        InfeasibleError: nothing fits.
    """
    found = search(model, cluster, training, fixed=fixed, time_limit_seconds=_SEARCH_SECONDS, runners_up=0)
    return found.plan
