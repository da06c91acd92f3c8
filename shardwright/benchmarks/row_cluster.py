"""From a table row to the cluster it ran on: a device of the catalog, with what the row states put over it."""

import re
from collections.abc import Callable
from typing import NamedTuple

from shardwright.costmodel.cluster import ClusterSpec, Device, Link, NodeGroup
from shardwright.costmodel.errors import SpecError

from .skipped_row import SkippedRowError
from .table import TableRow

StandardNode = Callable[[str], NodeGroup]

# The words by which tables name devices, to catalog keys. What a name says beyond the key (memory, bandwidth) overrides it.
_CATALOG_KEYS = {
    "H100-SXM": "h100-sxm",
    "H100-PCIe": "h100-pcie",
    "H200-SXM": "h200-sxm",
    "H800": "h800-sxm",
    "A100-SXM-40GB": "a100-sxm-40gb",
    "A100-40GB": "a100-sxm-40gb",
    "A100-SXM-80GB": "a100-sxm-80gb",
    "A100-80GB": "a100-sxm-80gb",
    "A800": "a800-80gb",
    "V100-SXM-16GB": "v100-sxm-16gb",
    "V100-SXM-32GB": "v100-sxm-32gb",
    "B200": "b200",
    "GB200": "gb200",
    "RTX 4090": "rtx-4090",
}
_MEMORY = re.compile(r"(\d+) ?GB(?!/s)")
_BANDWIDTH = re.compile(r"([\d.]+) ?TB/s")
_NIC_COUNT_AND_RATE = re.compile(r"(\d+) ?x\D*(\d+) ?Gb", re.IGNORECASE)
_RATE_PER_NODE = re.compile(r"(\d+) ?Gb(?:/s|ps)?\D*per node", re.IGNORECASE)
_RATE_PER_DEVICE = re.compile(r"(\d+) ?Gb(?:/s|ps)?\D*per GPU", re.IGNORECASE)


class _Nics(NamedTuple):
    count: int
    bits_per_s: float


def cluster_of_row(row: TableRow, standard_node: StandardNode) -> tuple[ClusterSpec, list[str]]:
    """The cluster of `row`, and what had to be assumed about it. `standard_node` gives one
    whole node of a catalog device.

    Raises:
        SkippedRowError: the device is unknown, here or in the catalog, or their number is, or it fills no whole nodes.
    """
    devices = row.gpus or _product(row.tp, row.pp, row.dp, row.cp or 1)
    if row.gpu is None or devices is None:
        raise SkippedRowError("device or device count unknown")
    standard, assumptions = _standard(row.gpu, standard_node)
    per_node = min(row.gpus_per_node or standard.devices_per_node, devices)
    if devices % per_node:
        raise SkippedRowError("devices fill no whole nodes")
    if row.gpus_per_node is None and devices > per_node:
        assumptions.append("devices per node as in the standard node")
    nics = _nics(row.interconnect or "", standard, per_node)
    if devices > per_node and not _states_a_rate(row.interconnect):
        assumptions.append("network of the standard node")
    group = NodeGroup(
        device=_device(row.gpu, standard.device),
        nodes=devices // per_node,
        devices_per_node=per_node,
        intra_node=standard.intra_node,
        host_link=standard.host_link,
        nics_per_node=nics.count,
        nic=_link(row.interconnect or "", standard.nic, nics.bits_per_s),
        host=standard.host,
    )
    return ClusterSpec(name=f"{row.gpu} x {devices}", groups=(group,)), assumptions


def _product(*degrees: int | None) -> int | None:
    total = 1
    for degree in degrees:
        if degree is None:
            return None
        total *= degree
    return total


def _standard(gpu: str, standard_node: StandardNode) -> tuple[NodeGroup, list[str]]:
    named = [prefix for prefix in _CATALOG_KEYS if gpu.startswith(prefix)]
    key = _CATALOG_KEYS[max(named, key=len)] if named else gpu.lower().replace(" ", "-")
    try:
        node = standard_node(key)
    except SpecError:
        raise SkippedRowError(f"device '{gpu}' is not in the catalog") from None
    limited = "power" in gpu.lower() or re.search(r"\d{3}W", gpu)
    return node, ["the data sheet's peak for a power-limited device"] if limited else []


def _device(gpu: str, device: Device) -> Device:
    """The catalog's device with the memory and bandwidth that the name states."""
    changes: dict[str, object] = {}
    if (memory := _MEMORY.search(gpu)) and abs(float(memory[1]) * 1e9 / device.memory_bytes - 1) > 0.1:
        changes["memory_bytes"] = float(memory[1]) * 1e9
    if bandwidth := _BANDWIDTH.search(gpu):
        changes["memory_bytes_per_s"] = float(bandwidth[1]) * 1e12
    if not changes:
        return device
    sources = device.sources | dict.fromkeys(changes, f"the table's name of the device, '{gpu}'")
    return Device.model_validate(device.model_dump() | changes | {"name": gpu, "sources": sources})


def _states_a_rate(interconnect: str | None) -> bool:
    return bool(interconnect and re.search(r"\d ?Gb", interconnect))


def _nics(interconnect: str, standard: NodeGroup, devices_per_node: int) -> _Nics:
    if each := _RATE_PER_DEVICE.search(interconnect):
        return _Nics(devices_per_node, float(each[1]) * 1e9)
    if counted := _NIC_COUNT_AND_RATE.search(interconnect):
        return _Nics(int(counted[1]), float(counted[2]) * 1e9)
    if whole := _RATE_PER_NODE.search(interconnect):
        return _Nics(standard.nics_per_node, float(whole[1]) * 1e9 / standard.nics_per_node)
    return _Nics(standard.nics_per_node, 8 * standard.nic.bytes_per_s)


def _link(interconnect: str, standard: Link, bits_per_s: float) -> Link:
    folded = interconnect.lower()
    kind = "roce" if "roce" in folded else "infiniband" if re.search(r"\bib\b|infiniband", folded) else standard.kind
    stated = _states_a_rate(interconnect)
    changes = {
        "kind": kind,
        "bytes_per_s": bits_per_s / 8,
        "source": f"the table's interconnect, '{interconnect}'" if stated else standard.source,
    }
    return Link.model_validate(standard.model_dump() | changes)
