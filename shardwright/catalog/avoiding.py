"""A cluster without the groups, nodes or links that a user avoids."""

import re
from collections.abc import Iterable

from shardwright.base import SpecError, listed, nearest
from shardwright.specs import ClusterSpec, NodeGroup

BETWEEN, NICS = "between", "nic"
"""What `--avoid` takes for links: those from one group to another, and the NICs from one node to another."""


def without(cluster: ClusterSpec, avoided: Iterable[str]) -> ClusterSpec:
    """Return `cluster` without what `avoided` names: `a100-sxm-80gb` for all groups of that device, `a100-sxm-80gb:16` for 16 of
    them, in whole nodes, from its last group on. `nic` leaves one node of each group, where no message leaves a node; `between` leaves
    the cluster as it is (see `keeps_apart`).

    Raises:
        SpecError: the cluster has no such device or fewer of them, the count is none or cuts a node, or nothing is left.
    """
    for text in avoided:
        if text.strip() == NICS:
            cluster = _single_nodes(cluster)
        elif text.strip() != BETWEEN:
            cluster = _without(cluster, text.strip())
    return cluster


def keeps_apart(cluster: ClusterSpec, avoided: Iterable[str]) -> bool:
    """Whether `avoided` names all links from one group of `cluster` to another: `between`, or `nic` where NICs join the groups.

    Raises:
        SpecError: `between` on a cluster of equal nodes, which has no such link.
    """
    names = [text.strip() for text in avoided]
    if BETWEEN in names and not cluster.is_mixed:
        raise SpecError(
            f"--avoid {BETWEEN}: {cluster.name} has nodes of one kind and no groups with a link between them; --avoid {NICS} plans for one node"
        )
    return BETWEEN in names or (NICS in names and cluster.is_mixed and cluster.between is None)


def _single_nodes(cluster: ClusterSpec) -> ClusterSpec:
    groups = cluster.groups if cluster.is_mixed else cluster.groups[:1]
    single = tuple(group.model_copy(update={"nodes": 1}) for group in groups)
    return cluster.model_copy(update={"name": f"single nodes of {cluster.name}", "groups": single})


def _without(cluster: ClusterSpec, text: str) -> ClusterSpec:
    name, colon, count = text.partition(":")
    names = list(dict.fromkeys(group.device.name for group in cluster.groups))
    if name not in names:
        known = [*names, BETWEEN, NICS]
        raise SpecError(
            f"--avoid {text}: {cluster.name} has no {name}; it has {listed(names)}, and links '{BETWEEN}' and '{NICS}'.{nearest(name, known)}"
        )
    there = sum(group.devices for group in cluster.groups if group.device.name == name)
    if colon and not (re.fullmatch(r"[0-9]{1,9}", count) and 1 <= int(count) <= there):
        raise SpecError(f"--avoid {text}: give a number of {name} from 1 to {there}")
    left, kept = int(count) if colon else there, list[NodeGroup]()
    for group in reversed(cluster.groups):
        nodes = min(group.nodes, left // group.devices_per_node) if group.device.name == name else 0
        left -= nodes * group.devices_per_node
        if nodes < group.nodes:
            kept.insert(0, group.model_copy(update={"nodes": group.nodes - nodes}))
    if left:
        sizes = {group.devices_per_node for group in cluster.groups if group.device.name == name}
        raise SpecError(f"--avoid {text}: it cuts a node of {listed(sorted(sizes))} {name}; give whole nodes")
    if not kept:
        raise SpecError(f"--avoid {text}: nothing of {cluster.name} is left; leave out one --avoid")
    between = cluster.between if len(kept) > 1 else None
    changes = {"name": f"{cluster.name} without {text}", "groups": tuple(kept), "between": between}
    return cluster.model_copy(update=changes)
