"""Stage tables of random pipelines of four stages, and every partition of them that fits."""

from itertools import combinations

import numpy as np

from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.ranges import LayerRanges, layer_ranges
from shardwright.planner.stages.tables import StageTables, stage_tables
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model


def random_tables(seed: int, *, layers: int = 9, schedule: str = "1f1b") -> StageTables:
    chance = np.random.default_rng(seed)
    model = tiny_model(layers=layers, classes=1 + seed % 2, hidden=1024, vocab=20000)
    cluster = tiny_cluster(
        devices=4,
        devices_per_node=1 + seed % 2,
        memory_bytes=float(chance.uniform(2.2e9, 5e9)),
        nic_bytes_per_s=float(10 ** chance.uniform(8.5, 10.5)),
    )
    training = TrainingSpec(seq_len=1024, global_batch=int(chance.choice([1, 2, 3, 4, 8, 32])))
    fixed = Fixed.model_validate({"pp": 4, "micro_batch": 1, "schedule": schedule, "offload_optimizer": 0})
    costs = space_costs(enumerate_space(model, cluster, training, fixed), model, training, op_times(cluster, training))
    return stage_tables(costs.entry(0), layer_ranges(model), [0, 1, 2])


def _all_partitions(ranges: LayerRanges, stages: int) -> np.ndarray:
    cuts = np.array(list(combinations(range(1, ranges.layer_count), stages - 1)))
    edges = np.concatenate([np.zeros((len(cuts), 1), int), cuts, np.full((len(cuts), 1), ranges.layer_count)], axis=1)
    return np.diff(edges, axis=1)


def fitting_partitions(tables: StageTables) -> np.ndarray:
    every = _all_partitions(tables.ranges, tables.entry.pp)
    return every[tables.feasible[np.arange(tables.entry.pp), tables.ranges.kinds(every)].all(axis=1)]
