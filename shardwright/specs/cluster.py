"""The cluster: node groups of one device each, the links inside a node and the fabric between nodes."""

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from shardwright.base import SpecError, divisors, listed, units

from .device import Device
from .profile import Profile
from .spec import Capacity, Latency, NonNegativeFloat, PositiveInt, Rate, Spec

if TYPE_CHECKING:
    import networkx

LinkKind = Literal[
    "nvlink", "nvswitch", "infinity-fabric", "hccs", "ici", "pcie", "infiniband", "roce", "ethernet", "shared-memory"
]
NETWORKS: tuple[LinkKind, ...] = ("infiniband", "roce", "ethernet")
"""Kinds of links that the devices of a node share, through its NICs."""

GraphNode = tuple[str, int]
FABRIC: GraphNode = ("fabric", 0)
MOST_DEVICES = 10_000_000
Count = Annotated[PositiveInt, Field(le=MOST_DEVICES)]
"""Of devices, cores or NICs of a node: far beyond any, and small enough for every product of rates."""


class Link(Spec):
    """A connection as one device sees it: bytes/s in one direction, and seconds until the first byte arrives.

    `meshed`: separate wires join each two devices of a node, so that a device reaches another only with that pair's share.
    `torus`: the dimensions of the torus in which a device has a link to either neighbour; 0 for no torus. The rate is that of all its links.
    """

    kind: LinkKind
    bytes_per_s: Rate
    latency_seconds: Latency
    meshed: bool = False
    torus: Literal[0, 2, 3] = 0
    source: str = "given by the user"


class Host(Spec):
    """The machine around the devices that share it. Bytes and rates are of the whole machine; 0 NVMe bytes means no drive.

    `memory_reserve`: share of the memory that a plan leaves to the system; None for nothing.
    """

    cores: Count
    memory_bytes: Capacity
    memory_bytes_per_s: Rate
    memory_reserve: Annotated[NonNegativeFloat, Field(lt=1)] | None = None
    nvme_bytes: NonNegativeFloat = 0.0
    nvme_read_bytes_per_s: NonNegativeFloat = 0.0
    nvme_write_bytes_per_s: NonNegativeFloat = 0.0
    source: str = "given by the user"

    def part(self, devices: int, of_devices: int) -> Self:
        """Return the share of `devices` among the `of_devices` that this host has: whole cores, one at least."""
        share = devices / of_devices
        sizes = {
            field: getattr(self, field) * share
            for field in type(self).model_fields
            if field.endswith(("_bytes", "_bytes_per_s"))
        }
        source = f"{devices} of {of_devices} devices' share of: {self.source}"
        return self.model_copy(update={"cores": max(1, int(self.cores * share)), "source": source} | sizes)


class NodeGroup(Spec):
    """`nodes` equal nodes. A node is the devices that `intra_node` joins: a server, or the NVLink domain of a whole rack.

    `nics_per_node` NICs of rate `nic.bytes_per_s` each are shared by the node's devices. `nic` may be None where the node
    is the only one of its cluster, which sends nothing to others.
    `host_devices`: devices that share one `host`, such as the 4 of a tray in a rack; None means all of the node.
    `profile`: measurements of such a device; what it lacks is predicted from the figures here.
    """

    device: Device
    nodes: PositiveInt
    devices_per_node: Count
    intra_node: Link
    host_link: Link
    nics_per_node: Count = 1
    nic: Link | None = None
    host: Host
    host_devices: Count | None = None
    profile: Profile | None = Field(default=None, repr=False)

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_per_node

    @property
    def devices_per_host(self) -> int:
        """Devices that share the cores, memory and drives of one host."""
        return min(self.host_devices or self.devices_per_node, self.devices_per_node)

    @property
    def is_rack(self) -> bool:
        """Whether one domain of links joins devices of several hosts."""
        return self.devices_per_host < self.devices_per_node

    def part(self, devices: int) -> Self:
        """Return these nodes with only `devices` of each node's devices, and their share of NICs, host and meshed links.

        Shares of NICs and cores are whole: NICs are rounded up, cores down, neither below 1. A host that keeps all its
        devices stays whole. Where separate wires join each two devices, only the wires to the devices that are left count.
        """
        if devices >= self.devices_per_node:
            return self
        nics = max(1, math.ceil(self.nics_per_node * devices / self.devices_per_node))
        changes: dict[str, object] = {"devices_per_node": devices, "nics_per_node": nics}
        if devices < self.devices_per_host:
            changes |= {"host": self.host.part(devices, self.devices_per_host), "host_devices": None}
        if self.intra_node.meshed and devices > 1:
            rate = self.intra_node.bytes_per_s * (devices - 1) / (self.devices_per_node - 1)
            changes["intra_node"] = self.intra_node.model_copy(update={"bytes_per_s": rate})
        return self.model_copy(update=changes)

    @property
    def node_bytes_per_s(self) -> float:
        """Bytes/s that one node can send to the fabric through all its NICs; `math.inf` without a NIC, because no byte leaves."""
        return self.nics_per_node * self.nic.bytes_per_s if self.nic else math.inf

    @property
    def nic_latency_seconds(self) -> float:
        """Seconds until the first byte reaches another node; 0 without a NIC, because no byte leaves."""
        return self.nic.latency_seconds if self.nic else 0.0


class ClusterSpec(Spec):
    """Node groups, ranks numbered node by node. `oversubscription` divides the bandwidth between nodes of a group.

    Groups that differ in nothing but their number of nodes are one fabric of equal nodes. Otherwise the cluster is mixed
    (`is_mixed`), and each group has a fabric of its own. `between` is the link from one group to another: a network link
    counts once for each node, any other link once for each device. Without it messages between groups pass the NICs of both,
    at the rate of the slower.
    """

    name: str = Field(min_length=1)
    groups: tuple[NodeGroup, ...] = Field(min_length=1)
    oversubscription: float = Field(default=1.0, ge=1.0, le=1e6, allow_inf_nan=False)
    between: Link | None = None

    @model_validator(mode="after")
    def _groups_go_together(self) -> Self:
        own_memory = {group.device.has_own_memory for group in self.groups}
        if len(own_memory) > 1:
            raise ValueError("groups of CPUs and groups of GPUs in one cluster are not available; describe one of them")
        if self.between is not None and len(self.groups) == 1:
            raise ValueError("'between' is the link from one group to another, and there is one group; leave it out")
        return self

    @model_validator(mode="after")
    def _nodes_are_joined(self) -> Self:
        for number, group in enumerate(self.groups, start=1):
            alone = group.nodes if self.is_mixed else sum(each.nodes for each in self.groups)
            of_group = f"group {number} has {alone} nodes" if self.is_mixed else f"{alone} nodes"
            if alone > 1 and group.nic is None:
                raise ValueError(
                    f"{of_group} and no key 'nic': name the link between them, nic = \"ethernet-100g\", say"
                )
            if self.is_mixed and self.between is None and group.nic is None:
                raise ValueError(
                    f"group {number} has no key 'nic', and no key 'between' joins it to the others: name one of them, "
                    'between = "ethernet-100g", say'
                )
        return self

    @model_validator(mode="after")
    def _not_absurd(self) -> Self:
        if self.devices > MOST_DEVICES:
            raise ValueError(f"{self.devices:.3g} devices are more than the {MOST_DEVICES:,} that can be planned for")
        return self

    def __repr__(self) -> str:
        groups = " + ".join(
            f"{group.nodes} x {group.devices_per_node} {group.device.name}, {units.size(group.device.memory_bytes)} each"
            for group in self.groups
        )
        return f"<ClusterSpec {self.name}: {groups}>"

    @property
    def devices(self) -> int:
        return sum(group.devices for group in self.groups)

    @property
    def is_mixed(self) -> bool:
        """Whether the groups differ in more than their number of nodes, or are joined by a link of its own."""
        first = self.groups[0].model_copy(update={"nodes": 1})
        return len(self.groups) > 1 and (
            self.between is not None or any(group.model_copy(update={"nodes": 1}) != first for group in self.groups[1:])
        )

    @property
    def node(self) -> NodeGroup:
        """What every node is: its device, host, links and NICs, and the profile of its device.

        Raises:
            SpecError: the cluster is mixed, so that nodes differ. What is costed by group takes one group at a time.
        """
        self.check_one_kind()
        return self.groups[0]

    def check_one_kind(self) -> None:
        """Refuse a mixed cluster.

        Raises:
            SpecError: nodes differ.
        """
        if self.is_mixed:
            kinds = listed([f"{group.devices} {group.device.name}" for group in self.groups])
            raise SpecError(
                f"{self.name} is a mixed cluster ({kinds}), and this request takes nodes of one kind; name one group alone"
            )

    def alone(self, index: int) -> Self:
        """Return a cluster of one group, with the name of its devices in front of this one's."""
        group = self.groups[index]
        name = f"{group.devices} {group.device.name} of {self.name}"
        return self.model_copy(update={"name": name, "groups": (group,), "between": None})

    def in_order(self, order: Sequence[int]) -> Self:
        """Return the cluster with only these groups, in this order."""
        groups = tuple(self.groups[index] for index in order)
        return self.model_copy(update={"groups": groups, "between": self.between if len(groups) > 1 else None})

    def groups_of_ranks(self, pp: int, block: int) -> tuple[int, ...]:
        """(pp,): the group that holds each pipeline rank. Rank r has the devices r * block to (r + 1) * block - 1, in the order of
        the groups. A cluster that is not mixed counts as one group.

        Raises:
            SpecError: a rank of the pipeline would have devices of two groups, or of none.
        """
        if not self.is_mixed:
            return (0,) * pp
        ends = np.cumsum([group.devices for group in self.groups])
        first, last = (
            np.searchsorted(ends, [r * block + at for r in range(pp)], side="right") for at in (0, block - 1)
        )
        if pp * block > ends[-1]:
            raise SpecError(
                f"{pp} pipeline ranks of {block} devices are more than the {ends[-1]} devices of {self.name}"
            )
        apart = np.flatnonzero(first != last)
        if len(apart):
            counts = [group.devices for group in self.groups]
            raise SpecError(
                f"pipeline rank {apart[0]} would have devices of two groups of {self.name}: dp x cp x tp is {block}; "
                f"allowed: {listed(divisors(math.gcd(*counts)))}, the divisors of {listed(counts)} devices"
            )
        return tuple(first.tolist())

    def graph(self) -> "networkx.Graph[GraphNode]":
        """The topology as a tree: ("rank", r) - ("node", n) - ("fabric", 0).

        Each edge carries `link`, the `Link` as one device sees it while all devices of its node send at once: between a
        node and the fabric that is the device's share of the node's NICs, divided by the oversubscription. One node without
        a NIC has no fabric. Where `between` joins the groups, group g has the fabric g, and these are chained by it.
        """
        import networkx  # imported here, because the import is slow and planning does not need it

        graph: networkx.Graph[GraphNode] = networkx.Graph()
        rank = 0
        for node, (index, group) in enumerate(self._nodes()):
            fabric = FABRIC if self.between is None else (FABRIC[0], index)
            if group.nic:
                share = group.node_bytes_per_s / group.devices_per_node / self.oversubscription
                graph.add_edge(fabric, ("node", node), link=group.nic.model_copy(update={"bytes_per_s": share}))
            elif self.between is not None:
                graph.add_edge(fabric, ("node", node), link=self._link_between(group))
            for _ in range(group.devices_per_node):
                graph.add_edge(("node", node), ("rank", rank), link=group.intra_node)
                rank += 1
        if self.between is not None:
            for index, pair in enumerate(pairwise(self.groups)):
                slower = min(map(self._link_between, pair), key=lambda link: link.bytes_per_s)
                graph.add_edge((FABRIC[0], index), (FABRIC[0], index + 1), link=slower)
        return graph

    def _link_between(self, group: NodeGroup) -> Link:
        """`between` as one device of `group` sees it while all devices of its node send."""
        assert self.between is not None
        sharing = group.devices_per_node if self.between.kind in NETWORKS else 1
        return self.between.model_copy(update={"bytes_per_s": self.between.bytes_per_s / sharing})

    def node_of(self, rank: int) -> int:
        """The number of the node that `rank` is on.

        Raises:
            SpecError: the cluster has no such rank.
        """
        first_rank, first_node = 0, 0
        for group in self.groups:
            if first_rank <= rank < first_rank + group.devices:
                return first_node + (rank - first_rank) // group.devices_per_node
            first_rank, first_node = first_rank + group.devices, first_node + group.nodes
        raise SpecError(f"no rank {rank} in cluster '{self.name}': it has ranks 0 to {self.devices - 1}")

    def spans_nodes(self, ranks: Collection[int]) -> bool:
        """Whether a message among `ranks` must leave a node."""
        return len({self.node_of(rank) for rank in ranks}) > 1

    def bottleneck_link(self, ranks: Collection[int]) -> Link:
        """The slowest link on the paths between `ranks`, as one device sees it (see `graph`).

        Raises:
            SpecError: fewer than two ranks share no link; the cluster has no such rank.
        """
        distinct = sorted(set(ranks))
        if len(distinct) < 2:
            raise SpecError(f"a link is shared by two ranks or more; {len(distinct)} given")
        for rank in distinct:
            self.node_of(rank)
        import networkx

        graph = self.graph()
        paths = [networkx.shortest_path(graph, ("rank", one), ("rank", other)) for one, other in pairwise(distinct)]
        links: list[Link] = [graph.edges[edge]["link"] for path in paths for edge in pairwise(path)]
        return min(links, key=lambda link: link.bytes_per_s)

    def _nodes(self) -> Iterator[tuple[int, NodeGroup]]:
        """Each node, as the index of its group and the group."""
        for index, group in enumerate(self.groups):
            for _ in range(group.nodes):
                yield index, group
