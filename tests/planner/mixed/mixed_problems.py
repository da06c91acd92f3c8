"""Random small jobs on two groups of unlike devices, small enough to try every plan of."""

import random
from itertools import permutations
from math import gcd, inf

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.base.numbers import divisors
from shardwright.costmodel.checks import MIXED_SCHEDULES, check_memory
from shardwright.costmodel.evaluate import costs_of_groups
from shardwright.planner.mixed.arrangement import equal_nodes
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.cluster import ClusterSpec, Link, NodeGroup
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan, Replicas
from shardwright.specs.training import TrainingSpec
from tests.planner.brute_force import all_plans, fastest
from tests.planner.rows_once import rows_once
from tests.planner.small_problems import Problem, tiny_cluster, tiny_model


def random_mixed_problem(seed: int) -> Problem:
    """The same problem for the same seed: unlike rates, memory and NICs; in a third of them a link of its own between the groups."""
    chance = random.Random(f"mixed {seed}")
    model = tiny_model(
        layers=chance.choice([3, 3, 4]),
        classes=chance.choice([1, 1, 2]),
        hidden=chance.choice([256, 1024]),
        vocab=chance.choice([1000, 20000]),
        tied=chance.random() < 0.3,
    )
    one, other = chance.choice([(1, 1), (1, 1), (2, 2), (2, 1), (1, 2)])
    memory = 2e9 + model.parameter_count * chance.uniform(6, 30)
    groups = (
        _group(one, chance, "fast-gpu", memory, speed=1.0),
        _group(
            other, chance, "slow-gpu", memory * chance.choice([0.6, 1.0, 1.5]), speed=chance.choice([0.1, 0.4, 0.8])
        ),
    )
    link = Link(kind=chance.choice(["ethernet", "pcie"]), bytes_per_s=10 ** chance.uniform(8, 10), latency_seconds=2e-5)
    between = link if chance.random() < 0.35 else None
    cluster = ClusterSpec(name="mixed", groups=groups, between=between)
    return Problem(model, cluster, TrainingSpec(seq_len=chance.choice([256, 1024]), global_batch=chance.choice([2, 4])))


def random_replica_problem(seed: int) -> Problem:
    """A problem as above with fast links and more sequences, so that replicas with unequal shares of the batch are often the fastest."""
    chance = random.Random(f"replicas {seed}")
    model = tiny_model(
        layers=chance.choice([2, 3]), classes=chance.choice([1, 2]), hidden=chance.choice([256, 1024]), vocab=1000
    )
    memory = 2e9 + model.parameter_count * chance.uniform(16, 40)
    one, other = chance.choice([(1, 1), (2, 1), (1, 2), (2, 2)])
    groups = [
        _group(devices, chance, name, memory * more, speed=speed)
        for devices, name, more, speed in (
            (one, "fast-gpu", 1.0, 1.0),
            (other, "slow-gpu", chance.choice([0.8, 1.0, 1.5]), chance.choice([0.3, 0.5, 0.9])),
        )
    ]
    nic = Link(kind="infiniband", bytes_per_s=10 ** chance.uniform(10.5, 12), latency_seconds=5e-6)
    groups = [group.model_copy(update={"nic": nic}) for group in groups]
    cluster = ClusterSpec(name="mixed", groups=tuple(groups))
    return Problem(model, cluster, TrainingSpec(seq_len=1024, global_batch=chance.choice([6, 7, 8])))


def _group(devices: int, chance: random.Random, name: str, memory_bytes: float, speed: float) -> NodeGroup:
    group = tiny_cluster(
        devices=devices,
        devices_per_node=chance.choice([d for d in (1, 2) if devices % d == 0]),
        memory_bytes=memory_bytes,
        link_bytes_per_s=10 ** chance.uniform(9, 11),
        nic_bytes_per_s=10 ** chance.uniform(8.5, 10.5),
    ).groups[0]
    peaks = {kind: speed * rate for kind, rate in group.device.peak_flops_per_s.items()}
    return group.model_copy(
        update={"device": group.device.model_copy(update={"name": name, "peak_flops_per_s": peaks})}
    )


@rows_once()
def fastest_of_all(problem: Problem, fixed: Fixed) -> float | None:
    """Seconds of the fastest plan through both groups in either order, as replicas in both, or on one alone; None where none fits."""
    model, cluster, training = problem
    orders = [order for count in (1, 2) for order in permutations(range(2), count)]
    found = [fastest(model, cluster.in_order(order), training, fixed) for order in orders]
    found.append(fastest_replicas(problem, fixed))
    return min((seconds for seconds in found if seconds is not None), default=None)


@rows_once()
def fastest_replicas(problem: Problem, fixed: Fixed) -> float | None:
    """Seconds of the fastest plan with replicas in both groups, whose micro batches divide the sequences of a rank's place.

    The step is the longest of both groups, and the step of one does not depend on batch and stages of the other
    (tests/costmodel/test_replica_groups.py). So all plans of each group are estimated apart, and then all splits of the batch are tried.
    """
    model, cluster, training = problem
    found = [
        _fastest_split(steps, counts)
        for block in divisors(gcd(*(group.devices for group in cluster.groups)))
        for counts in [[group.devices // block for group in cluster.groups]]
        for steps in _steps(model, cluster, training, counts, fixed)
    ]
    return min((seconds for seconds in found if seconds is not None), default=None)


Steps = list[dict[int, float]]
"""The least seconds of each group by the sequences of one of its data-parallel ranks, and under -1 the sequences of all groups."""


def _steps(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, counts: list[int], fixed: Fixed
) -> list[Steps]:
    """One item for each choice of all but micro batches and stages."""
    replicas = sum(counts)
    if not fixed.allows("dp_replicate", replicas):
        return []
    whole = training.model_copy(update={"global_batch": replicas * training.global_batch})
    by_kind: dict[str, Steps] = {}
    for plan in all_plans(model, equal_nodes(cluster), whole, fixed.but(dp_replicate=replicas)):
        if plan.schedule not in MIXED_SCHEDULES:
            continue
        sequences = plan.micro_batch * plan.microbatches
        kind = f"{plan.mesh} {plan.zero_stage} {plan.schedule} {plan.offload} {plan.sequence_parallel} {plan.context_parallel}"
        steps = by_kind.setdefault(kind, [{-1: float(sequences)} for _ in counts])
        for count in range(1, plan.microbatches + 1):
            for group, seconds in enumerate(_group_seconds(model, cluster, training, plan, counts, count)):
                taken = plan.micro_batch * count
                steps[group][taken] = min(seconds, steps[group].get(taken, inf))
    return list(by_kind.values())


def _group_seconds(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, counts: list[int], microbatches: int
) -> list[float]:
    """The step of each group, where all have so many microbatches and the same stages; infinite where it does not fit the group."""
    own = {"micro_batch": plan.micro_batch, "microbatches": microbatches, "stages": plan.stages}
    try:
        of_all = Plan.parse(
            dict(plan) | own | {"replicas": [Replicas(count=count, **own) for count in counts]}, source="test"
        )
    except SpecError:  # a schedule that does not exist for so few
        return [inf] * len(counts)
    job = training.model_copy(update={"global_batch": of_all.global_batch})
    found = []
    for group, costs in enumerate(costs_of_groups(model, cluster, job, of_all)):
        estimate = costs.estimate()
        try:
            check_memory(estimate, cluster.alone(group))
        except InfeasibleError:
            found.append(inf)
        else:
            found.append(estimate.step_seconds)
    return found


def _fastest_split(steps: Steps, counts: list[int]) -> float | None:
    whole = int(steps[0][-1])
    found = []
    for one, first in steps[0].items():
        other, rest = divmod(whole - counts[0] * one, counts[1])
        if one > 0 and not rest and other in steps[1] and other > 0:
            found.append(max(first, steps[1][other]))
    best = min(found, default=inf)
    return best if best < inf else None
