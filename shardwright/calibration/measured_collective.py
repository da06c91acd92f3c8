"""The published table of measured collectives: typed rows with their system, or the reason to leave a row out."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

from shardwright.catalog import devices as catalog
from shardwright.costmodel.op_times import CollectiveName, reduces_in_switch, share_of_links
from shardwright.specs import NodeGroup

_OPERATIONS: dict[str, CollectiveName] = {
    "all_reduce": "all_reduce",
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
}
# The table prints rates with two decimals; below this rate, rounding alone is an error of 5%.
_LEAST_RATE_GB_PER_S = 0.1


class MeasuredSystem(NamedTuple):
    """Hardware of rows of the table, found by a part of their `system` field; link rates are the catalog's.

    `log` names one run of a benchmark on it, with its software. `host_calls`: its seconds include the host's call of
    PyTorch, once for each collective. `ranks` and `nodes` apply where the rows don't say.
    """

    stated: str
    hardware: str
    log: str
    device: str
    nic: str
    nics_per_node: int = 8
    ranks: int = 0
    nodes: int = 0
    host_calls: bool = False


SYSTEMS = (
    MeasuredSystem("p4de.24xlarge", "p4de", "p4de", "a100-sxm-80gb", "efa-100g", nics_per_node=4),
    MeasuredSystem("per node) EKS", "p5", "p5, old EFA plugin", "h100-sxm", "efa-400g"),
    MeasuredSystem("p5.48xlarge (8x H100", "p5", "p5", "h100-sxm", "efa-400g"),
    MeasuredSystem("p5.48xlarge (H100)", "p5", "p5", "h100-sxm", "efa-400g"),
    MeasuredSystem("p5en.48xlarge", "p5en", "p5en", "h200-sxm", "efa-400g", ranks=128, nodes=16),
    MeasuredSystem("n of 8 GPUs", "h200", "h200, 4 to 8 ranks", "h200-sxm", "infiniband-ndr"),
    MeasuredSystem("nccl 2.27.7", "h200", "h200, by operation", "h200-sxm", "infiniband-ndr"),
    MeasuredSystem(
        "8x H200 single node (see", "h200", "h200, from PyTorch", "h200-sxm", "infiniband-ndr", host_calls=True
    ),
    MeasuredSystem("p6-b200.48xlarge", "p6-b200", "p6-b200, 4 to 8 ranks", "b200-sxm", "efa-400g"),
    MeasuredSystem("AWS P6-B200", "p6-b200", "p6-b200, from PyTorch", "b200-sxm", "efa-400g", host_calls=True),
    MeasuredSystem("8x A100 node", "a100", "a100", "a100-sxm-80gb", "infiniband-hdr"),
    MeasuredSystem("8x MI300X node", "mi300x", "mi300x, 2 and 8 ranks", "mi300x", "roce-400g"),
)


@dataclass(frozen=True)
class MeasuredCollective:
    """One row that can be predicted. `in_switch` is False if the run disabled reduction in the switch."""

    system: MeasuredSystem
    name: CollectiveName
    size_bytes: float
    ranks: int
    nodes: int
    in_switch: bool
    seconds: float

    @property
    def log(self) -> str:
        """Name of the rows with one software and one path, and so one latency: the system's run and its number of nodes."""
        return f"{self.system.log}, {self.nodes} node{'s' if self.nodes > 1 else ''}"

    @property
    def passes(self) -> int:
        return 2 if self.name == "all_reduce" else 1

    @property
    def bus_bytes_per_s(self) -> float:
        """Bytes that each link of a ring carries, over the seconds (nccl-tests, doc/PERFORMANCE.md)."""
        return self.passes * (self.ranks - 1) / self.ranks * self.size_bytes / self.seconds


def node_of(row: MeasuredCollective, *, latency_factor: float, efa_seconds: float) -> NodeGroup:
    """The nodes of `row`'s system with the latency of its EFA links replaced, and then every latency multiplied."""
    node = catalog.standard_node(row.system.device, nodes=row.nodes)
    nic = catalog.link(row.system.nic)
    nic_seconds = efa_seconds if row.system.nic.startswith("efa") else nic.latency_seconds
    nic = nic.model_copy(update={"latency_seconds": nic_seconds * latency_factor})
    inside = {"latency_seconds": node.intra_node.latency_seconds * latency_factor}
    kind = {} if row.in_switch else {"kind": "nvlink"}
    return node.model_copy(
        update={
            "nic": nic,
            "nics_per_node": row.system.nics_per_node,
            "intra_node": node.intra_node.model_copy(update=inside | kind),
        }
    )


def published_collectives() -> tuple[list[MeasuredCollective], Counter[str]]:
    """The rows of published/collectives.csv to predict, and the counts of the others by reason."""
    rows: list[MeasuredCollective] = []
    left_out: Counter[str] = Counter()
    for fields in _table():
        read = _read(fields)
        if isinstance(read, str):
            left_out[read] += 1
        else:
            rows.append(read)
    return rows, left_out


def _table() -> Iterator[dict[str, str]]:
    text = (files(__package__) / "published" / "collectives.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())


def _read(fields: dict[str, str]) -> MeasuredCollective | str:
    operation = next((name for stated, name in _OPERATIONS.items() if fields["op"].startswith(stated)), None)
    if operation is None:
        return "no collective: a copy, or a drive"
    system = next((system for system in SYSTEMS if system.stated in fields["system"]), None)
    if system is None:
        return "hardware not stated"
    ranks, nodes = int(fields["gpus"] or system.ranks), int(fields["nodes"] or system.nodes)
    size_bytes = float(fields["message_bytes"])
    seconds = _seconds(fields, (2 if operation == "all_reduce" else 1) * (ranks - 1) / ranks * size_bytes)
    if seconds is None:
        return "rate rounded to nearly nothing"
    forbidden = "NVLS off" in fields["op"] or "NVLS_ENABLE=0" in fields["op"]
    return MeasuredCollective(system, operation, size_bytes, ranks, nodes, not forbidden, seconds)


def _seconds(fields: dict[str, str], bus_bytes: float) -> float | None:
    if fields["latency_us"]:
        return float(fields["latency_us"]) * 1e-6
    rate = float(fields["busbw_GBps"] or math.nan)
    return bus_bytes / (rate * 1e9) if rate >= _LEAST_RATE_GB_PER_S else None


def reached_fractions(rows: Iterable[MeasuredCollective]) -> dict[str, list[float]]:
    """For each constant that is a share of a data-sheet rate, the shares that single rows reached, including latency.

    A row counts for the link that its algorithm fills: the ring's or the switch's in one node, the NICs on several.
    """
    reached: dict[str, list[float]] = {"nvlink_fraction": [], "nic_fraction": [], "in_switch_fraction": []}
    for row in rows:
        node = node_of(row, latency_factor=1.0, efa_seconds=0.0)
        link = node.intra_node.bytes_per_s
        if row.nodes > 1:  # two nodes exchange the tensor itself, more of them pass it around
            sent = row.size_bytes / row.seconds if row.nodes == 2 else row.bus_bytes_per_s
            reached["nic_fraction"].append(sent / node.node_bytes_per_s)
        elif row.name == "all_reduce" and reduces_in_switch(node):
            sent = (row.ranks + 1) / row.ranks * row.size_bytes / row.seconds
            reached["in_switch_fraction"].append(sent / link)
        else:
            reached["nvlink_fraction"].append(row.bus_bytes_per_s / (link * float(share_of_links(node, row.ranks))))
    return reached
