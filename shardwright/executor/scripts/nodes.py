"""The machines that a plan needs."""

from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile


class Nodes(NamedTuple):
    """`machines` with `devices` ranks each, in the order of the plan's ranks, and as many `gpus` each; `cores` of each host."""

    machines: int
    devices: int
    gpus: int
    cores: int


def nodes_of(plan_file: PlanFile) -> Nodes:
    """Return the machines of a plan: as many as its ranks fill.

    Raises:
        SpecError: the cluster is mixed, its hosts hold parts of a node, or its nodes are not filled evenly.
    """
    cluster, ranks = plan_file.cluster, plan_file.plan.mesh.ranks
    if cluster.is_mixed:
        raise SpecError(f"{cluster.name} is a mixed cluster, on which plans do not run yet; plan for one group alone")
    node = cluster.node
    devices = min(node.devices_per_host, ranks)
    if ranks % devices:
        raise SpecError(
            f"the plan's {ranks} ranks do not fill machines of {devices} devices; plan for a multiple of {devices}"
        )
    gpus = devices if node.device.torch_type == "cuda" else 0
    return Nodes(ranks // devices, devices, gpus, node.host.cores)
