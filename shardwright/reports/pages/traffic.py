"""What a step sends over each axis of the mesh, and over which link."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shardwright.base import units as readable
from shardwright.costmodel import RankCharges
from shardwright.reports.charts import Bars, Part
from shardwright.specs import (
    Candidates,
    ClusterSpec,
    Estimate,
    Plan,
    cp_group,
    ep_group,
    pipeline_group,
    replicate_group,
    shard_group,
    tp_group,
)

TRAFFIC_COLUMNS = ("axis", "collective", "ranks", "link", "calls", "bytes", "exposed")
_CAUSES = {
    "tp": "tensor_parallel",
    "cp": "context_parallel",
    "ep": "expert_parallel",
    "dp": "data_parallel",
    "pp": "pipeline_transfer",
}


class AxisLink(NamedTuple):
    """The ranks of one group of an axis, and the slowest link between them."""

    ranks: int
    link: str


def links_of(plan: Plan, cluster: ClusterSpec) -> dict[str, AxisLink]:
    """The link of each axis with more than one rank, by the short name of the axis; data parallelism counts shards and copies."""
    one, node, mesh = Candidates.of(plan), cluster.node, plan.mesh
    groups = {
        "tp": [tp_group],
        "cp": [cp_group],
        "ep": [ep_group],
        "dp": [shard_group, replicate_group],
        "pp": [pipeline_group],
    }
    degrees = {"tp": mesh.tp, "cp": mesh.cp, "ep": mesh.ep, "dp": mesh.data_ranks, "pp": mesh.pp}
    inside = f"{node.intra_node.kind} {_rate(node.intra_node.bytes_per_s)}"
    found = {}
    for axis, of_axis in groups.items():
        if degrees[axis] > 1:
            leaves = any(np.max(group(one, node).nodes) > 1 for group in of_axis)
            between = (
                f"{node.nics_per_node} x {node.nic.kind} {_rate(node.nic.bytes_per_s)} a node" if node.nic else inside
            )
            found[axis] = AxisLink(degrees[axis], between if leaves else inside)
    return found


def traffic_rows(
    charges: Sequence[RankCharges], links: dict[str, AxisLink], estimate: Estimate
) -> list[tuple[str, ...]]:
    """One row for each axis and collective in the order of `TRAFFIC_COLUMNS`, of the pipeline rank that sends most in it.

    `exposed` seconds are those of the axis on the rank that bounds the step, and stand in its first row."""
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for rank in charges:
        for key, charge in rank.traffic.items():
            largest[key] = max(largest.get(key, (0.0, 0.0)), (charge.size_bytes, charge.calls))
    rows: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for axis in _CAUSES:
        for (of_axis, collective), (size, calls) in sorted(largest.items()):
            if of_axis == axis and axis in links:
                exposed = "" if axis in seen else readable.seconds(getattr(estimate.step, _CAUSES[axis]))
                seen.add(axis)
                ranks, link = links[axis]
                words = collective.replace("_", "-")
                rows.append(
                    (axis, words, readable.count(ranks), link, readable.count(calls), readable.size(size), exposed)
                )
    return rows


def traffic_bars(charges: Sequence[RankCharges], links: dict[str, AxisLink]) -> Bars:
    """Bytes of a step on the pipeline rank that sends most, one bar for each link, by axis."""
    totals = [
        {axis: sum(c.size_bytes for (of, _), c in rank.traffic.items() if of == axis) for axis in links}
        for rank in charges
    ]
    most = max(totals, key=lambda sizes: sum(sizes.values()))
    rows = tuple(dict.fromkeys(link for _, link in links.values()))
    parts = tuple(
        Part(cause.replace("_", " "), cause, tuple(most[axis] if links[axis].link == row else None for row in rows))
        for axis, cause in _CAUSES.items()
        if axis in links and most[axis] > 0
    )
    return Bars(axis="bytes of one step", unit="B", rows=rows, parts=parts)


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:,.0f} GB/s"
