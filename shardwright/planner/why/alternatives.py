"""The nearest alternatives to a plan: one choice changed, mesh and schedule else kept, the rest chosen anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardwright.base import SpecError
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner.branching import BranchAndBound, lacking_bytes
from shardwright.planner.space import Fixed
from shardwright.planner.stages import plan_of
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class Alternative:
    """What changing one choice leads to: a plan with its estimate, or the bytes that a device lacks for any."""

    change: str
    plan: Plan | None
    estimate: Estimate | None
    lacking_bytes: float


def alternatives(
    plan: Plan,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    times: OpTimes,
    *,
    fixed: Fixed | None = None,
    time_limit_seconds: float = 0.2,
) -> Iterator[Alternative]:
    """Each change of one choice that divides; those that the model or the batch rule out are left out.

    What is `fixed` stays so, but for the choice that changes. `time_limit_seconds` is of each change; the plan of a
    change whose search ran into it may not be its best.
    """
    kept = fixed.model_dump(exclude_none=True) if fixed else {}
    for change, changed in _changes(plan, cluster):
        held = Fixed(**(kept | changed.model_dump(exclude_none=True)))
        try:
            run = BranchAndBound.start(model, cluster, training, held, times)
        except SpecError:
            continue
        run.run(time_limit_seconds)
        if run.best is None:
            yield Alternative(change, None, None, lacking_bytes(model, cluster, training, held))
        else:
            found = plan_of(run.best, run.space, model)
            yield Alternative(change, found, run.estimate(model, cluster, training, found), 0.0)


def _changes(plan: Plan, cluster: ClusterSpec) -> Iterator[tuple[str, Fixed]]:
    mesh = plan.mesh
    around: dict[str, Any] = {"tp": mesh.tp, "pp": mesh.pp, "schedule": plan.schedule}
    if plan.stages_per_rank > 1:
        around["stages_per_rank"] = plan.stages_per_rank
    for axis, most in (("tp", cluster.groups[0].devices_per_node), ("pp", cluster.devices)):
        degree = around[axis]
        for changed in (degree * 2, degree // 2):
            if 0 < changed <= most:
                yield f"{axis} {changed} instead of {degree}", Fixed(**{**around, axis: changed})
    split = around | {"dp_shard": mesh.dp_shard, "dp_replicate": mesh.dp_replicate}
    for stage in (1, 2, 3):
        if mesh.dp_shard > 1 and stage != plan.zero_stage:
            yield f"ZeRO-{stage} instead of ZeRO-{plan.zero_stage}", Fixed(**split, zero_stage=stage)
    for size in (plan.micro_batch * 2, plan.micro_batch // 2):
        if size:
            yield f"micro batch {size} instead of {plan.micro_batch}", Fixed(**split, micro_batch=size)
    if {run.recompute for stage in plan.stages for run in stage.layers} != {"none"}:
        yield "no recomputation", Fixed(**split, recompute="none")
    offload = plan.offload.optimizer_fraction
    if cluster.groups[0].device.kind == "gpu":
        where = "on the device" if offload else "on the host"
        yield f"the optimizer {where}", Fixed(**split, offload_optimizer=0 if offload else 1)
    if mesh.pp > 1:
        other = "1f1b" if plan.schedule != "1f1b" else "interleaved-1f1b"
        rest = {name: value for name, value in split.items() if name not in ("schedule", "stages_per_rank")}
        yield f"schedule {other} instead of {plan.schedule}", Fixed(**rest, schedule=other)
