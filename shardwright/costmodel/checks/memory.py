"""Whether an estimate fits the memory of devices, hosts and drives."""

from shardwright.base import GIB, InfeasibleError
from shardwright.costmodel.op_times import CALIBRATED, Constants
from shardwright.costmodel.tables import host_share_bytes, nvme_share_bytes, usable_bytes
from shardwright.specs import ClusterSpec, Estimate, NodeGroup


def nodes_of_ranks(estimate: Estimate, cluster: ClusterSpec) -> list[NodeGroup]:
    """Return the node that holds each pipeline rank of an estimate."""
    if estimate.groups:
        return [cluster.groups[index] for index in estimate.groups]
    pp = len(estimate.memory)
    if not cluster.is_mixed:
        return [cluster.node] * pp
    return [cluster.groups[index] for index in cluster.groups_of_ranks(pp, int(estimate.device_count) // pp)]


def lacking_bytes(estimate: Estimate, cluster: ClusterSpec, constants: Constants = CALIBRATED) -> float:
    """Return the bytes that the device lacks which lacks most; 0 where every rank fits."""
    ranks = zip(estimate.memory, nodes_of_ranks(estimate, cluster), strict=True)
    return max(0.0, *(memory.total - usable_bytes(node.device, constants) for memory, node in ranks))


def check_memory(estimate: Estimate, cluster: ClusterSpec, constants: Constants = CALIBRATED) -> None:
    """Check that every rank fits its device and its share of the host and of its drives.

    Raises:
        InfeasibleError: a rank does not fit; names the rank, the largest part and the missing GiB.
    """
    ranks = zip(
        estimate.memory,
        estimate.host_bytes,
        estimate.nvme_bytes or (0.0,) * len(estimate.memory),
        nodes_of_ranks(estimate, cluster),
        strict=True,
    )
    for rank, (device, host_bytes, nvme_bytes, node) in enumerate(ranks):
        host_share, usable = host_share_bytes(node), usable_bytes(node.device, constants)
        if device.total > usable:
            part, size = max(device, key=lambda item: item[1])
            words = part.replace("_", " ")
            over = (device.total - usable) / GIB
            raise InfeasibleError(
                f"{estimate.rank_name(rank)} needs {device.total / GIB:.1f} GiB and {node.device.name} has "
                f"{usable / GIB:.1f} usable: {over:.1f} GiB too much ({words} {size / GIB:.1f} GiB)"
            )
        if host_bytes > host_share:
            raise InfeasibleError(
                f"the host of {estimate.rank_name(rank)} needs {host_bytes / GIB:.1f} GiB for each device and has "
                f"{host_share / GIB:.1f} usable"
            )
        if nvme_bytes > nvme_share_bytes(node):
            raise InfeasibleError(
                f"the drives of the host need {nvme_bytes / GIB:.1f} GiB for each device and have "
                f"{nvme_share_bytes(node) / GIB:.1f}"
            )
