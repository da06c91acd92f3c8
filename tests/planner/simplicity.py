"""How simple a plan is by the order of docs/planner.md."""

from shardwright.specs.plan import Plan
from shardwright.specs.schedules import splits_backward


def simplicity(plan: Plan) -> tuple[int, int, int, bool]:
    """Axes besides data parallelism, stages on a rank of a pipeline, optimizer on the host, whether anything is recomputed."""
    mesh = plan.mesh
    axes = sum(degree > 1 for degree in (mesh.pp, mesh.cp, mesh.tp, mesh.ep, min(mesh.dp_replicate, mesh.dp_shard)))
    recomputes = any(run.recompute != "none" for stage in plan.stages for run in stage.layers)
    pipeline = 1_000 if splits_backward(plan.schedule) else plan.stages_per_rank * (mesh.pp > 1)
    return axes, pipeline, int(plan.offload.optimizer_fraction), recomputes
