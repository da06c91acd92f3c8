"""Arrangements of a mixed cluster: some of its groups in an order, and the space of plans whose pipeline runs through them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import gcd
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, SpecError, divisors, listed
from shardwright.costmodel import MIXED_SCHEDULES, MixedRanks, MixedTimes
from shardwright.costmodel.op_times import CALIBRATED, Constants
from shardwright.costmodel.tables import RowCosts
from shardwright.planner.mixes import allowed_strategies
from shardwright.planner.space import EntryCosts, Fixed, Space, SpaceCosts, enumerate_space, space_costs
from shardwright.specs import NETWORKS, PIPELINE_OUTERMOST, ClusterSpec, Link, NodeGroup, TrainingSpec
from shardwright.specs.model import ModelSpec

MOST_GROUPS = 4
"""Of four groups there are 60 arrangements of two or more."""


def merged(cluster: ClusterSpec) -> ClusterSpec:
    """Return the cluster with equal groups as one, where nothing but a fabric of equal nodes lies between them."""
    if cluster.between is not None:
        return cluster
    kinds: dict[str, NodeGroup] = {}
    for group in cluster.groups:
        key = group.model_copy(update={"nodes": 1}).model_dump_json()
        nodes = group.nodes + (kinds[key].nodes if key in kinds else 0)
        kinds[key] = group.model_copy(update={"nodes": nodes})
    return cluster.model_copy(update={"groups": tuple(kinds.values())})


def all_on_the_link_between(cluster: ClusterSpec) -> ClusterSpec | None:
    """Return equal nodes that only a slower network splits into groups as one cluster on that network alone, where
    every plan of a uniform cluster is open. None where nodes differ, or the link is no network."""
    first, link = cluster.groups[0], cluster.between
    alike = all(group.model_copy(update={"nodes": first.nodes}) == first for group in cluster.groups)
    if link is None or link.kind not in NETWORKS or not alike:
        return None
    nodes = sum(group.nodes for group in cluster.groups)
    group = first.model_copy(update={"nodes": nodes, "nic": link, "nics_per_node": 1})
    name = f"{cluster.name}, on {link.kind} alone"
    return cluster.model_copy(update={"name": name, "groups": (group,), "between": None})


def arrangements(cluster: ClusterSpec) -> Iterator[ClusterSpec]:
    """Yield two groups or more of a mixed cluster in every order, those with most devices first; equal groups swap nothing.

    Raises:
        SpecError: there are more groups than can be tried.
    """
    groups = cluster.groups
    if len(groups) > MOST_GROUPS:
        raise SpecError(
            f"{cluster.name} has {len(groups)} groups of different nodes; the planner arranges at most {MOST_GROUPS}"
        )
    orders = [order for count in range(2, len(groups) + 1) for order in permutations(range(len(groups)), count)]
    orders.sort(key=lambda order: -sum(groups[index].devices for index in order))
    seen: list[tuple[NodeGroup, ...]] = []
    for order in orders:
        arranged = cluster.in_order(order)
        if arranged.groups not in seen:
            seen.append(arranged.groups)
            yield arranged


class Entry(NamedTuple):
    """One entry of an arrangement: the costs of each rank (pp), and the least of all ranks with the messages between them."""

    ranks: tuple[EntryCosts, ...]
    least: EntryCosts


@dataclass(frozen=True)
class Arrangement:
    """Groups in an order, and the space of the plans on all their devices with one stage on each pipeline rank.

    `costs`: for each group those of the whole space, as if every rank were there.
    """

    cluster: ClusterSpec
    model: ModelSpec
    training: TrainingSpec
    space: Space
    times: MixedTimes
    costs: tuple[SpaceCosts, ...]

    @classmethod
    def of(
        cls,
        cluster: ClusterSpec,
        model: ModelSpec,
        training: TrainingSpec,
        fixed: Fixed,
        constants: Constants = CALIBRATED,
    ) -> "Arrangement":
        """Enumerate the space of an ordered cluster.

        Raises:
            SpecError: nothing divides, or the fixed choices contradict each other or a mixed cluster.
        """
        times = MixedTimes.of(cluster, training, constants)
        space = enumerate_space(model, equal_nodes(cluster), training, _within(fixed, cluster))
        ends = times.crossing(0, len(cluster.groups) - 1)
        costs = tuple(space_costs(space, model, training, each, ends) for each in times.of_group)
        return cls(cluster, model, training, space, times, costs)

    @cached_property
    def allowed(self) -> list[int]:
        """The strategies that a layer may have."""
        allowed = allowed_strategies(self.space.fixed, self.space.strategies)
        return self.space.runs(allowed, splits=False, several=False)

    @cached_property
    def blocks(self) -> Array:
        """(N,): devices of one pipeline rank in every entry."""
        base = self.space.base
        return np.asarray((base.ranks // base.pp)[self.space.base_index])

    def priced(self, entries: Array) -> None:
        """Price the rows of `entries` together, which takes less time than one by one."""
        bases = np.unique(self.space.base_index[entries])
        for costs in self.costs:
            costs.rows[bases]

    def ranks(self, entry: int) -> MixedRanks:
        """The pipeline ranks of an entry."""
        base = self.space.base
        pp = int(base.pp[self.space.base_index[entry]])
        return MixedRanks(self.times, self.cluster.groups_of_ranks(pp, int(self.blocks[entry])))

    def entry(self, entry: int) -> Entry:
        """Return the costs of an entry."""
        ranks, base = self.ranks(entry), int(self.space.base_index[entry])
        each = [costs.entry(entry) for costs in self.costs]
        inside = {group: np.atleast_1d(each[group].rows.send) for group in ranks.used}
        sends = ranks.sends(self.model, self.training, self.space.base[base], inside)[0]
        rows = RowCosts.joined([each[group].rows for group in ranks.used], lambda parts: np.min(parts, axis=0))
        least = EntryCosts(**{**vars(each[ranks.group_of_rank[0]]), "rows": rows, "send_seconds": sends})
        return Entry(tuple(each[group] for group in ranks.group_of_rank), least)


def equal_nodes(cluster: ClusterSpec) -> ClusterSpec:
    """Return as many devices in equal nodes, small enough that what stays inside such a node stays inside every group's nodes."""
    per_node = gcd(*(group.devices_per_node for group in cluster.groups))
    node = cluster.groups[0].model_copy(
        update={"devices_per_node": per_node, "nodes": cluster.devices // per_node, "nic": _any_nic(cluster)}
    )
    return cluster.model_copy(update={"groups": (node,), "between": None})


def _any_nic(cluster: ClusterSpec) -> Link | None:
    return next((group.nic for group in cluster.groups if group.nic is not None), cluster.between)


def _within(fixed: Fixed, cluster: ClusterSpec) -> Fixed:
    """The fixed choices, with what plans on a mixed cluster must keep.

    Raises:
        SpecError: a fixed choice is none of these.
    """
    pps = sorted(cluster.devices // block for block in blocks_of(cluster))
    return within_mixed(fixed, cluster, {"pp": pps})


def blocks_of(cluster: ClusterSpec) -> list[int]:
    """Return the numbers of devices that divide every group."""
    return divisors(gcd(*(group.devices for group in cluster.groups)))


def within_mixed(fixed: Fixed, cluster: ClusterSpec, also: dict[str, Sequence[object]]) -> Fixed:
    """Return the fixed choices, with what any plan over several groups must keep, and `also` values of other choices.

    Raises:
        SpecError: a fixed choice is none of these.
    """
    counts = [group.devices for group in cluster.groups]
    must = {**also, "schedule": MIXED_SCHEDULES, "vocabulary_parallel": ("none",), "order": (PIPELINE_OUTERMOST,)}
    for name, values in must.items():
        allowed = fixed.allowed(name, values)
        if not set(allowed) & set(values):
            raise SpecError(
                f"{name} {getattr(fixed, name) or 'within its limits'} is not available on {listed(counts)} devices of a mixed "
                f"cluster; allowed: {listed(values)}"
            )
        if getattr(fixed, name) is None:
            fixed = fixed.but(**{name: allowed[0]}) if len(allowed) == 1 else _limited(fixed, name, allowed)
    if fixed.gives("offload_activations") and fixed.offload_activations != 0:
        raise SpecError("offload_activations is not available on a mixed cluster; leave it out")
    return fixed


def _limited(fixed: Fixed, name: str, values: tuple[object, ...]) -> Fixed:
    """The fixed choices with one choice limited to these values, which keep its limits."""
    others = tuple(limit for limit in fixed.within if limit.choice != name)
    return fixed.but(within=(*others, *Fixed.parse({"within": {name: values}}, source=name).within))
