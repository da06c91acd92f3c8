"""The simplest rival of a plan: the fastest plan with fewer mesh axes, and what it costs."""

from collections.abc import Iterator
from typing import Any

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.space import Fixed
from shardwright.reports.plan import ComparedPlan
from shardwright.specs import ClusterSpec, Mesh, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

_ALONE: dict[str, Any] = {"pp": 1, "tp": 1, "cp": 1, "ep": 1, "dp_replicate": 1}
_WITH_TENSOR_PARALLEL: dict[str, Any] = {"pp": 1, "cp": 1, "ep": 1, "dp_replicate": 1}
_TIME_LIMIT_SECONDS = 0.2


def simplest_rival(
    plan: Plan, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, *, fixed: Fixed | None = None
) -> ComparedPlan | None:
    """The fastest plan with fewer axes above degree 1 than `plan`; None where `plan` has one axis or none.

    It tries sharded data parallelism alone, then tensor with sharded data parallelism, and stops at the first that fits.
    Both spaces are small, so the search takes milliseconds. It keeps what is `fixed`, and the optimizer on the device where the
    plan does and something fits so. If neither fits, the row has no plan, and `reason` says why the first does not run.
    """
    if axis_count(plan.mesh) < 2:
        return None
    if cluster.is_mixed:
        return ComparedPlan(name="none", reason="simpler plans are not searched on a mixed cluster")
    refusals = []
    for name, held in _simpler(plan, fixed or Fixed()):
        try:
            found = search(
                model,
                cluster,
                training,
                fixed=held,
                time_limit_seconds=_TIME_LIMIT_SECONDS,
                runners_up=0,
                explain_none="nothing",
            )
        except InfeasibleError:
            refusals.append(f"{name} does not fit the memory")
        except SpecError:
            refusals.append(f"{name} does not divide this job")
        else:
            return ComparedPlan(name=name, plan=found.plan, estimate=found.estimate)
    return ComparedPlan(name="none", reason=refusals[0] if refusals else "the given options leave none")


def axis_count(mesh: Mesh) -> int:
    """How many axes of the mesh split or copy something."""
    return sum(degree > 1 for degree in mesh.degrees.values())


def _simpler(plan: Plan, fixed: Fixed) -> Iterator[tuple[str, Fixed]]:
    """Names and held choices to try, without those that contradict what the user fixed."""
    on_device = plan.offload.optimizer_fraction == 0 and not fixed.gives("offload_optimizer")
    tries = [("data parallelism alone", _ALONE)]
    if axis_count(plan.mesh) > 2:
        tries.append(("tensor and data parallelism", _WITH_TENSOR_PARALLEL))
    for name, held in tries:
        if all(fixed.allows(choice, degree) for choice, degree in held.items()):
            if on_device:
                yield name, fixed.but(**held, offload_optimizer=0)
            yield name, fixed.but(**held)
