"""How simple a plan is by the order of docs/planner.md."""

from shardwright.specs.plan import Plan
from shardwright.specs.schedules import splits_backward


def simplicity(plan: Plan) -> tuple[int, int, int, bool]:
    """Axes besides data parallelism and that of experts, and two for an optimizer on the host, that alone, stages on a rank of a pipeline, whether anything is
    recomputed."""
    mesh = plan.mesh
    axes = sum(degree > 1 for degree in (mesh.pp, mesh.cp, mesh.tp, min(mesh.dp_replicate, mesh.dp_shard)))
    recomputes = any(run.recompute != "none" for stage in plan.stages for run in stage.layers)
    pipeline = 1_000 if splits_backward(plan.schedule) else plan.stages_per_rank * (mesh.pp > 1)
    on_host = int(plan.offload.optimizer_fraction > 0)
    return axes + 2 * on_host, on_host, pipeline, recomputes
