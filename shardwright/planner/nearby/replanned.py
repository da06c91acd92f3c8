"""The same job on another number of devices, for a run that lost some or was given more."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.planner import TOLERANCE
from shardwright.planner.space import Fixed, asked
from shardwright.specs import ClusterSpec, Offload, Plan

from .job import search_job


def replanned(plan_file: PlanFile, devices: int, *, exactly: bool = False) -> PlanFile:
    """Plan the job of a plan file anew for `devices` devices like those of its cluster, with the same model, batch and training.

    Where no plan divides over all of them, or fewer are faster, the plan is for the largest part that helps, unless it must be for `exactly`
    so many. What the given plan keeps off the device opens all shares of what may leave it.

    Raises:
        SpecError: the cluster is mixed, `devices` is no number of them that fills nodes, or nothing divides.
        InfeasibleError: nothing fits their memory.
    """
    cluster = _of_devices(plan_file.cluster, devices, exactly=exactly)
    fixed = asked({"offload": True}) if _streams(plan_file.plan) else Fixed()
    found = search_job(
        plan_file.model(),
        cluster,
        plan_file.training,
        fixed=fixed,
        allow_fewer_devices=not exactly,
        tolerance=TOLERANCE,
    )
    result = found.result
    changes = {"cluster": found.cluster, "training": result.training, "plan": result.plan, "estimate": result.estimate}
    return plan_file.model_copy(update=changes)


def _streams(plan: Plan) -> bool:
    """Whether more than the optimizer leaves the device, which a search by default does not look at."""
    runs = [run for stage in plan.stages for run in stage.layers]
    plain = Offload(optimizer_fraction=plan.offload.optimizer_fraction)
    return plan.offload != plain or any(run.activation_offload for run in runs)


def _of_devices(cluster: ClusterSpec, devices: int, *, exactly: bool) -> ClusterSpec:
    """Return the cluster with another number of devices: a part of a node, a node with more of them, or whole nodes.

    Raises:
        SpecError: it is mixed; nodes have no link to each other, or `exactly` so many do not fill nodes.
    """
    node = cluster.node
    nodes, rest = divmod(devices, node.devices_per_node)
    if devices <= node.devices_per_node:
        group = node.part(devices).model_copy(update={"nodes": 1})
    elif cluster.devices == node.devices_per_node:
        group = node.model_copy(update={"devices_per_node": devices, "host_devices": None})
    elif rest and exactly:
        raise SpecError(
            f"{devices} devices do not fill nodes of {node.devices_per_node}: run on {nodes * node.devices_per_node} or "
            f"{(nodes + 1) * node.devices_per_node}, or plan with a cluster file that has devices_per_node"
        )
    else:
        group = node.model_copy(update={"nodes": nodes})
    name = cluster.name if group.devices == cluster.devices else f"{group.devices} devices as in {cluster.name}"
    return cluster.model_copy(update={"name": name, "groups": (group,)})
