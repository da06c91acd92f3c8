"""How many devices: the fewest that meet a deadline, and cost against time over numbers of them."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from shardwright.base import SpecError, listed
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Asker, Case, Job
from .climbing import least
from .token_time import TokenTime, check_tokens, token_time


@dataclass(frozen=True)
class FewestDevices:
    """The fewest devices that meet a deadline.

    Attributes:
        best: the case, None where not even all devices of the cluster meet it.
        one_less: the case with one node less, which misses it; None where nothing fits there, or for one node.
        cases: all that were tried and fit, by devices.
        searches: how many searches that took.
    """

    best: Case | None
    one_less: Case | None
    cases: tuple[Case, ...]
    searches: int


def fewest_devices(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    tokens: float,
    deadline_seconds: float,
    at_slow_end: bool = False,
    fixed: Fixed | None = None,
    **options: Any,
) -> FewestDevices:
    """Return the fewest whole nodes of `cluster` that train on `tokens` tokens within `deadline_seconds`; one less does not.

    The counts are 1 to all nodes of the cluster, whose links and NICs they keep. With `at_slow_end` the slow end of the 80%
    interval must meet the deadline, so that a run meets it with 90% probability. A count may miss the deadline only because its
    devices divide badly; `climbing.least` says which counts are tried. `options` are those of `search`.

    Raises:
        SpecError: `tokens` or the deadline is no positive number; as `search`.
        InfeasibleError: no tried number of nodes fits the memory.
    """
    check_tokens(tokens)
    if not 0 < deadline_seconds < math.inf:
        raise SpecError(f"deadline_seconds {deadline_seconds:g}: give seconds above 0")
    asker = _over_nodes(model, cluster, training, fixed, options)

    def meets(nodes: int) -> bool:
        case = asker.case(nodes)
        if case is None:
            return False
        time = token_time(case, tokens)
        return (time.seconds_high if at_slow_end else time.seconds) <= deadline_seconds

    nodes = least(_nodes(cluster), meets)
    if not asker.fitting():
        asker.refuse(_nodes(cluster))
    best = asker.case(nodes) if nodes else None
    less = asker.case(nodes - 1) if nodes and nodes > 1 else None
    return FewestDevices(best, less, asker.fitting(), asker.searches)


@dataclass(frozen=True)
class Costs:
    """Cost against time over numbers of devices, each with the fastest plan.

    `cases` and `times`: those that fit, by devices. `cheapest_for_their_time`: indices of those that no other one beats in
    both time and cost (Pareto). `searches`: how many that took.
    """

    cases: tuple[Case, ...]
    times: tuple[TokenTime, ...]
    searches: int

    @property
    def cheapest_for_their_time(self) -> tuple[int, ...]:
        """No other number of devices is at least as good in both and better in one."""
        pairs = [(time.seconds, time.device_hours) for time in self.times]
        beaten = {
            index
            for index, (seconds, hours) in enumerate(pairs)
            if any(s <= seconds and h <= hours and (s, h) != (seconds, hours) for s, h in pairs)
        }
        return tuple(index for index in range(len(pairs)) if index not in beaten)


def costs(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    tokens: float,
    price: float | None = None,
    fixed: Fixed | None = None,
    **options: Any,
) -> Costs:
    """Return time and money for `tokens` tokens on 1, 2, 4, ... nodes and on all nodes of the cluster; of a mixed cluster on all its
    groups, on each alone, and on several together.

    `price`: money for one device and hour, in any unit. What costs least in device hours costs least at any price. `options` are
    those of `search`.

    Raises:
        SpecError: `tokens` or `price` is no positive number, or there is a price and devices of several kinds; as `search` for the
            whole cluster, where no part has a plan.
        InfeasibleError: no number of nodes fits.
    """
    check_tokens(tokens)
    if cluster.is_mixed:
        return _of_parts(model, cluster, training, tokens, price, fixed, options)
    most = _nodes(cluster)
    asker = _over_nodes(model, cluster, training, fixed, options)
    for nodes in sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)}):
        asker.case(nodes)
    cases = asker.fitting()
    if not cases:
        asker.refuse(most)
    return Costs(cases, tuple(token_time(case, tokens, price) for case in cases), asker.searches)


def _of_parts(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    tokens: float,
    price: float | None,
    fixed: Fixed | None,
    options: dict[str, Any],
) -> Costs:
    """Costs on parts of a mixed cluster: whole groups, fewest devices first. A plan that leaves a group idle is that of a smaller part."""
    if price is not None:
        kinds = listed([group.device.name for group in cluster.groups])
        raise SpecError(
            f"price {price:g} is of one kind of device, and {cluster.name} has {kinds}; leave it out, for device hours"
        )
    indices = range(len(cluster.groups))
    chosen = [some for count in indices for some in combinations(indices, count + 1)]
    parts = sorted((cluster.in_order(some) for some in chosen), key=lambda part: part.devices)
    asker = Asker(lambda place: Job(model, parts[place], training, fixed or Fixed()), options)
    cases: tuple[Case, ...] = ()
    for place in range(len(parts)):
        case = asker.case(place)
        if case is not None and case.cluster.groups not in [other.cluster.groups for other in cases]:
            cases += (case,)
    if not cases:
        asker.refuse(len(parts) - 1)
    return Costs(cases, tuple(token_time(case, tokens) for case in cases), asker.searches)


def _nodes(cluster: ClusterSpec) -> int:
    return sum(group.nodes for group in cluster.groups)


def _over_nodes(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed | None, options: dict[str, Any]
) -> Asker:
    """Searches by number of nodes."""

    def job(nodes: int) -> Job:
        group = cluster.node.model_copy(update={"nodes": nodes})
        name = cluster.name if nodes == _nodes(cluster) else f"{group.devices} of {cluster.name}"
        return Job(model, cluster.model_copy(update={"name": name, "groups": (group,)}), training, fixed or Fixed())

    return Asker(job, options)
