"""A small model on a stack that is eager PyTorch with one thing changed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shardwright.base.arrays import Array, Number
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.specs.test_candidates import candidates

HIDDEN, WIDTH, SEQ, VOCABULARY, LAYERS = 64, 128, 128, 1000, 4
MODEL = small_model()
BLOCK = MODEL.layer_classes[0]
Trained = Callable[..., TrainingSpec]


@dataclass(frozen=True)
class MemoryTimes(RoundTimes):
    """Round times, and 1 second for each GB of memory traffic and each thousand launches."""

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes, dtype=float) * 1e-9

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        return np.maximum(busy_seconds, np.asarray(kernels) * 1e-3)


@dataclass(frozen=True)
class SlowMatmuls(RoundTimes):
    """Round times, and a second for each matmul."""

    def matmul_seconds(self, m: Number, k: Number, n: Number, **_: object) -> Array:
        return np.ones(1)


def work(training: TrainingSpec, **degrees: int) -> WorkModel:
    return WorkModel(MODEL, training, MemoryTimes(), candidates(**degrees))


def layer(training: TrainingSpec, **degrees: int) -> RowWork:
    return work(training, **degrees).layer(BLOCK)


def tables(training: TrainingSpec, *, kind: str = "gpu", **degrees: int) -> CostTables:
    times = RoundTimes(node=round_cluster(kind=kind).node)  # type: ignore[arg-type] # "gpu" or "cpu"
    return build_tables(MODEL, training, candidates(offload_optimizer=0, **degrees), times)
