"""Sets of modules for selective recompute to repeat, for software whose jobs may name them (`Stack.recompute_modules`).

Modules are ranked by the bytes that they free for each second that they repeat, summed over the layers of a model. The sets to
try are the first module, the first two, and so on. A module that frees less for a second than a whole layer does is left
out: some layers recomputed in full then save as much in less time.
"""

from typing import NamedTuple

import numpy as np

from shardwright.costmodel.op_times import OpTimes
from shardwright.costmodel.tables import RowCosts, build_tables
from shardwright.specs import POLICIES, Candidates, RecomputeModule, RecomputePolicy, TrainingSpec
from shardwright.specs.model import ModelSpec

_PARTS_OF_MOE: tuple[RecomputeModule, ...] = ("moe_act", "shared_experts")


class _Trade(NamedTuple):
    """Bytes that recompute frees of one microbatch, and seconds that it adds to its backward."""

    freed_bytes: float
    added_seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.freed_bytes / max(self.added_seconds, 1e-12)


def module_sets(model: ModelSpec, training: TrainingSpec, times: OpTimes) -> list[tuple[RecomputeModule, ...]]:
    """Return the sets, each of them in the order of its worth, the smallest set first."""
    whole = _trade(model, training, times, "full")
    trades = {
        module: _trade(model, training.model_copy(update={"recompute_modules": (module,)}), times, "selective")
        for module in training.software.recompute_modules
    }
    worth = [module for module, trade in trades.items() if _pays(trade, whole)]
    worth.sort(key=lambda module: -trades[module].bytes_per_second)
    sets = [_without_parts(tuple(worth[:count])) for count in range(1, len(worth) + 1)]
    return list(dict.fromkeys(sets))


def _pays(trade: _Trade, whole: _Trade) -> bool:
    return trade.freed_bytes > 0 and trade.bytes_per_second > whole.bytes_per_second


def _without_parts(modules: tuple[RecomputeModule, ...]) -> tuple[RecomputeModule, ...]:
    """Leave out what the module "moe" repeats already."""
    return tuple(module for module in modules if "moe" not in modules or module not in _PARTS_OF_MOE)


def _trade(model: ModelSpec, training: TrainingSpec, times: OpTimes, policy: RecomputePolicy) -> _Trade:
    """What `policy` in all layers trades, on one device with microbatches of one sequence."""
    rows = RowCosts.of(build_tables(model, training, _one_device(), times))
    layers = np.bincount(model.class_of_layer)
    chosen, nothing = POLICIES.index(policy), POLICIES.index("none")
    kept, seconds = rows.activation.layers[0], rows.backward.layers[0]
    return _Trade(
        freed_bytes=float(layers @ (kept[:, nothing] - kept[:, chosen])),
        added_seconds=float(layers @ (seconds[:, chosen] - seconds[:, nothing])),
    )


def _one_device() -> Candidates:
    one, none = np.array([1]), np.array([0])
    return Candidates(
        pp=one,
        dp_replicate=one,
        dp_shard=one,
        tp=one,
        micro_batch=one,
        microbatches=one,
        stages_per_rank=one,
        zero_stage=none,
        sequence_parallel=none,
        offload_optimizer=none,
    )
