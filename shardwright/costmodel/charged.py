"""What an estimate charges of one step on each pipeline rank: FLOPs, and bytes and calls of every collective by axis.

The formulas of the cost model are evaluated with other units. In place of seconds, an operation returns its FLOPs, or a
collective its bytes, and everything else returns 0. On a device that hides no traffic behind compute, the seconds of a cause are
then the bytes that it is charged for. So nothing is counted a second time here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import CALIBRATED, CollectiveName, Constants, MatmulPart, Operator
from shardwright.specs import ClusterSpec, LinearFormat, NodeGroup, Plan, RankGroup, TrafficAxis, TrainingSpec, by_rank
from shardwright.specs.model import ModelSpec

from .evaluate import plan_costs
from .plan_costs import PlanCosts

_CAUSES: Mapping[str, TrafficAxis] = {
    "tensor_parallel": "tp",
    "context_parallel": "cp",
    "expert_parallel": "ep",
    "data_parallel": "dp",
}


@dataclass(frozen=True)
class Charge:
    """Calls of one collective in a step, and bytes over all calls, counted as in `OpTimes.collective_seconds`."""

    calls: float
    size_bytes: float


@dataclass(frozen=True)
class RankCharges:
    """What a step of one pipeline rank is charged for.

    `activation_bytes`: kept for each microbatch in flight, on all stages of the rank.
    """

    traffic: Mapping[tuple[TrafficAxis, CollectiveName], Charge]
    flops: float
    activation_bytes: float


def charged_step(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> tuple[RankCharges, ...]:
    """Return what each pipeline rank is charged for, (pp,).

    Experts are taken to be evenly loaded, where an estimate charges the most loaded rank (`TrainingSpec.expert_imbalance`).

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    even = training.model_copy(update={"expert_imbalance": 1.0})

    def costs(**units: Any) -> PlanCosts:
        return plan_costs(model, cluster, even, plan, _Units(**units))

    hiding = cluster.node
    plain = hiding.model_copy(update={"device": hiding.device.model_copy(update={"kind": "cpu"})})
    traffic: list[dict[tuple[TrafficAxis, CollectiveName], Charge]] = [{} for _ in range(plan.mesh.pp)]
    for name in get_args(CollectiveName):
        calls, sizes = (_traffic(costs(node=plain, collective=name, counts=counts)) for counts in (True, False))
        for axis in sizes:
            for rank, found in enumerate(traffic):
                if sizes[axis][rank] > 0:
                    found[axis, name] = Charge(float(calls[axis][rank]), float(sizes[axis][rank]))
    working = costs(node=hiding, flops=True)
    kept = _of_ranks(working, working.activation_bytes_per_stage())
    flops = _flops(working)
    return tuple(RankCharges(traffic[rank], float(flops[rank]), float(kept[rank])) for rank in range(plan.mesh.pp))


def _of_ranks(costs: PlanCosts, per_stage: Array) -> Array:
    """(pp,): the sum over the stages of each rank."""
    plan = costs.plan
    return np.asarray(by_rank(plan.schedule, plan.mesh.pp, per_stage).sum(axis=0))


def _traffic(costs: PlanCosts) -> dict[TrafficAxis, Array]:
    """(pp,) each: a step's charge by axis. The once-a-step gathers are charged to the pp-th part of each rank (see
    `DataParallel.in_first_forward`), and counted whole here."""
    tables, sums, plan = costs.sums.tables, costs.sums, costs.plan
    each = [sums.causes(part) for part in (tables.forward, tables.backward)]
    first, last = sums.causes(tables.first_forward), sums.causes(tables.last_backward)
    found = {
        axis: _of_ranks(
            costs,
            costs.visits * sum(part[cause] for part in each) + plan.mesh.pp * first[cause] + last[cause],
        )
        for cause, axis in _CAUSES.items()
    }
    nothing = np.zeros(1)
    send = costs.stage_costs().send
    messages = np.concatenate([send, nothing]) + np.concatenate([nothing, send])  # states forward, gradients back
    return {**found, "pp": _of_ranks(costs, costs.visits * messages[: len(plan.stages)])}


def _flops(costs: PlanCosts) -> Array:
    """(pp,): FLOPs of a step, recompute included."""
    tables, sums = costs.sums.tables, costs.sums
    each = [sums.causes(part) for part in (tables.forward, tables.backward)]
    work = np.sum([part[cause] for part in each for cause in ("compute", "recompute")], axis=0)
    return _of_ranks(costs, costs.visits * work)


@dataclass(frozen=True)
class _Units:
    """`OpTimes` that return what is counted in place of seconds: the bytes or calls of `collective`, or FLOPs."""

    node: NodeGroup
    collective: CollectiveName | None = None
    counts: bool = False
    flops: bool = False
    constants: Constants = CALIBRATED
    basis: Literal["catalog"] = "catalog"
    error_deviation: None = None

    def matmul_seconds(
        self,
        m: Number,
        k: Number,
        n: Number,
        *,
        groups: Number = 1,
        low: LinearFormat | None = None,
        part: MatmulPart = "forward",
        looped: bool = False,
    ) -> Array:
        return self._counted(2.0 * np.asarray(m, dtype=float) * k * n * groups)

    def attention_seconds(
        self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None
    ) -> Array:
        return self._counted(np.asarray(flops, dtype=float))

    def _counted(self, flops: Array) -> Array:
        return flops if self.flops else np.zeros_like(flops)

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        size, ranks = np.broadcast_arrays(np.asarray(size_bytes, dtype=float), group.ranks)
        if name != self.collective:
            return np.zeros(size.shape)
        return np.asarray(np.where((ranks > 1) & (size > 0), 1.0 if self.counts else size, 0.0))

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        return np.asarray(busy_seconds + np.zeros(np.shape(kernels)))

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.zeros(np.shape(moved_bytes))

    def cast_seconds(self, moved_bytes: Number, low: LinearFormat) -> Array:
        return np.zeros(np.shape(moved_bytes))

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        return np.zeros(np.broadcast_shapes(np.shape(elements), np.shape(moved_bytes)))

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        return np.zeros(np.broadcast_shapes(*map(np.shape, (parameter_bytes, microbatches, repeats))))

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        return np.zeros(np.shape(size_bytes))

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        return np.zeros(np.broadcast_shapes(np.shape(parameters), np.shape(moved_bytes)))
