"""From a table row to its cluster: a device of the catalog, with the row's own figures."""

import re
from collections.abc import Callable
from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.catalog import nodes_of
from shardwright.specs import ClusterSpec, Link, LinkKind, NodeGroup
from shardwright.validation.table import SkippedRowError, TableRow

StandardNode = Callable[[str], NodeGroup]

_TORCHAO_H100 = "h100-sxm-96gb"
_REMARK = re.compile(r"\s*\(.*\)\s*$")
_NIC_COUNT_AND_RATE = re.compile(r"(\d+) ?x\D*(\d+) ?Gb", re.IGNORECASE)
_RATE_PER_NODE = re.compile(r"(\d+) ?Gb(?:/s|ps)?[^,;]*per node", re.IGNORECASE)
_RATE_PER_DEVICE = re.compile(r"(\d+) ?Gb(?:/s|ps)?[^,;]*per GPU", re.IGNORECASE)


class _Nics(NamedTuple):
    per_host: int
    bits_per_s: float


def cluster_of_row(row: TableRow, standard_node: StandardNode) -> tuple[ClusterSpec, list[str]]:
    """The cluster of `row`, and what was assumed. `standard_node` gives the usual node of a device.

    The row's device is looked up without a remark in parentheses. Of a node with fewer devices than the standard one, the
    host and the NICs are a share. In a rack, `gpus_per_node` up to a tray's size is the tray, and the rack's links join
    all devices that the job has there; above it is the devices of each rack.
    A network rate is taken from its interconnect where that states one ("4 x 100 Gb RoCE per node", "400 Gb/s RDMA per
    GPU").

    Raises:
        SkippedRowError: the device is unknown or not in the catalog, or the device count is unknown or fills no whole nodes.
    """
    devices = row.gpus or _product(row.tp, row.pp, row.dp, row.cp or 1)
    if row.gpu is None or devices is None:
        raise SkippedRowError("device or device count unknown")
    device, assumptions = _device(row.gpu, row.framework or "")
    try:
        standard = standard_node(device)
    except SpecError:
        raise SkippedRowError(f"device '{row.gpu}' is not in the catalog") from None
    nodes = _nodes(standard, row.gpus_per_node, devices)
    several = nodes.nodes > 1
    stated = _stated_nics(row, nodes)
    if row.gpus_per_node is None and several:
        assumptions.append("devices per node of the standard node")
    if stated is None and several:
        assumptions.append("network of the standard node")
    if stated is not None:
        nic = _nic(row.interconnect or "", nodes, stated.bits_per_s)
        nodes = nodes.model_copy(update={"nics_per_node": stated.per_host * _hosts(row, nodes), "nic": nic})
    return ClusterSpec(name=f"{row.gpu} x {devices}", groups=(nodes,)), assumptions


def _device(named: str, framework: str) -> tuple[str, list[str]]:
    """The name to look up, and what was assumed. torchao's developers run the H100 of torchtitan's tables: their logs show 95 GiB."""
    plain = _REMARK.sub("", named)
    if plain.lower() == "h100" and "torchao" in framework.lower():
        return _TORCHAO_H100, ["the H100 with 96 GB and 500 W of torchtitan's tables"]
    return plain, []


def _nodes(standard: NodeGroup, per_node: int | None, devices: int) -> NodeGroup:
    if per_node is None or (standard.is_rack and per_node <= standard.devices_per_host):
        try:
            return nodes_of(standard, devices)
        except SpecError:
            raise SkippedRowError("devices fill no whole nodes") from None
    per_node = min(per_node, devices)
    if devices % per_node:
        raise SkippedRowError("devices fill no whole nodes")
    return standard.part(per_node).model_copy(update={"nodes": devices // per_node, "devices_per_node": per_node})


def _hosts(row: TableRow, nodes: NodeGroup) -> int:
    """Return the nodes of the row, such as trays, that one domain of links joins."""
    return max(1, nodes.devices_per_node // (row.gpus_per_node or nodes.devices_per_node))


def _product(*degrees: int | None) -> int | None:
    total = 1
    for degree in degrees:
        if degree is None:
            return None
        total *= degree
    return total


def _stated_nics(row: TableRow, nodes: NodeGroup) -> _Nics | None:
    interconnect, hosts = row.interconnect or "", _hosts(row, nodes)
    if each := _RATE_PER_DEVICE.search(interconnect):
        return _Nics(nodes.devices_per_node // hosts, float(each[1]) * 1e9)
    if counted := _NIC_COUNT_AND_RATE.search(interconnect):
        return _Nics(int(counted[1]), float(counted[2]) * 1e9)
    if whole := _RATE_PER_NODE.search(interconnect):
        nics = max(1, nodes.nics_per_node // hosts)
        return _Nics(nics, float(whole[1]) * 1e9 / nics)
    return None


def _nic(interconnect: str, standard: NodeGroup, bits_per_s: float) -> Link:
    assert standard.nic is not None, "the catalog's nodes have NICs"
    folded = interconnect.lower()
    kind: LinkKind = standard.nic.kind
    if "roce" in folded:
        kind = "roce"
    elif "infiniband" in folded or re.search(r"\bib\b", folded):
        kind = "infiniband"
    return Link(
        kind=kind,
        bytes_per_s=bits_per_s / 8,
        latency_seconds=standard.nic.latency_seconds,
        source=f"the table's interconnect, '{interconnect}'",
    )
