"""Random small jobs on two groups of unlike devices, small enough to try every plan of."""

import random
from itertools import permutations

from shardwright.planner.space.fixed import Fixed
from shardwright.specs.cluster import ClusterSpec, Link, NodeGroup
from shardwright.specs.training import TrainingSpec
from tests.planner.brute_force import fastest
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


def fastest_of_all(problem: Problem, fixed: Fixed) -> float | None:
    """Seconds of the fastest plan through both groups in either order, or on one alone; None where none fits."""
    model, cluster, training = problem
    orders = [order for count in (1, 2) for order in permutations(range(2), count)]
    found = [fastest(model, cluster.in_order(order), training, fixed) for order in orders]
    return min((seconds for seconds in found if seconds is not None), default=None)
