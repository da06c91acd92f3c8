"""What a stage does in one pass, layer by layer and by cause: the seconds behind a block of the timeline."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.costmodel.pipeline import ActionKind
from shardwright.costmodel.tables import StageSums
from shardwright.specs import ClusterSpec, Plan, RecomputePolicy, TrainingSpec, strategies_of
from shardwright.specs.model import ModelSpec

from .evaluate import costs_of_groups
from .plan_costs import PlanCosts

_ENDS = ("embedding", "head")
_ORDER = (
    *("recompute", "data_parallel", "compute", "tensor_parallel"),
    *("context_parallel", "expert_parallel", "host_copy", "straggler"),
)


@dataclass(frozen=True)
class PassPart:
    """Neighbouring equal layers of a stage, or one end of the model, and the seconds of each in one microbatch.

    Attributes:
        what: "layer", "multi-token prediction", "embedding" or "head".
        first: number of the first layer in the model; 0 for what is no layer.
        count: how many layers; for an end of the model that all stages share, the share that this stage has.
        recompute: what the backward computes again.
        forward, backward: seconds of one layer by the fields of `StepSeconds`; only exposed communication and copies count.
        weight_gradient_seconds: the part of `backward` that a schedule may postpone.
    """

    what: str
    first: int
    count: float
    recompute: RecomputePolicy
    forward: Mapping[str, float]
    backward: Mapping[str, float]
    weight_gradient_seconds: float

    def seconds(self, kind: ActionKind) -> dict[str, float]:
        """Return the seconds of one layer in a pass, by cause, in the order in which the pass comes to them.

        A weight gradient is compute, and an input gradient is the backward without it. Repeated work and gathered weights come
        before what needs them; a layer's exchanges lie between its kernels and are put behind them.
        """
        causes = dict(self.forward if kind is ActionKind.FORWARD else self.backward)
        if kind is ActionKind.WEIGHT_GRADIENT:
            causes = {"compute": self.weight_gradient_seconds}
        elif kind is ActionKind.INPUT_GRADIENT:
            causes["compute"] = causes.get("compute", 0.0) - self.weight_gradient_seconds
        return {cause: causes[cause] for cause in _ORDER if causes.get(cause, 0.0) > 0}


def pass_parts(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes | None = None
) -> tuple[tuple[tuple[PassPart, ...], ...], ...]:
    """Return the parts of each stage, for each group that has replicas (one where there are none of other groups).

    Summed over a stage, `count` times the seconds are those of its passes in the timeline, without the waits of an interlaced
    pipeline and what overlapped passes save.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    return tuple(_of_plan(costs) for costs in costs_of_groups(model, cluster, training, plan, times))


def _of_plan(costs: PlanCosts) -> tuple[tuple[PassPart, ...], ...]:
    classes, number, stages = costs.model.class_of_layer, 0, []
    for index, stage in enumerate(costs.plan.stages):
        stages.append(tuple(_of_stage(costs, index, number, classes)))
        number += stage.layer_count
    return tuple(stages)


class _Row(NamedTuple):
    """Where the costs of a layer stand in the tables: candidate, row and strategy."""

    candidate: int
    row: int
    strategy: int


def _of_stage(costs: PlanCosts, index: int, number: int, classes: tuple[int, ...]) -> Iterator[PassPart]:
    sums, stage = costs.sums, costs.plan.stages[index]
    strategies = strategies_of(costs.plan.stages)
    zeros = sorted({run.zero_stage for one in costs.plan.stages for run in one.layers}, reverse=True)
    # on a mixed cluster the candidates of every group follow each other, and a stage has those of its own
    group = int(np.nonzero(sums.ends[:, index].any(axis=-1) | sums.mixes[:, index].any(axis=(-2, -1)))[0][0]) // len(
        zeros
    )
    first = group * len(zeros)
    yield from _end(sums, first, index, 0)
    layers = [
        (_Row(first + zeros.index(layer.zero_stage), classes[number + place], strategies.index(layer.strategy)), layer)
        for place, layer in enumerate(stage.each_layer())
    ]
    for _, alike in groupby(layers, key=lambda item: item[0]):
        run = list(alike)
        row, layer = run[0]
        yield _part(sums, row, "layer", len(run), number, layer.recompute)
        number += len(run)
    if costs.plan.mtp_stage is not None and stage.mtp_layers:
        row = _Row(first, sums.mixes.shape[2] - 1, 0)
        yield _part(sums, row, "multi-token prediction", stage.mtp_layers)
    yield from _end(sums, first, index, 1)


def _end(sums: StageSums, candidate: int, stage: int, end: int) -> Iterator[PassPart]:
    share = float(sums.ends[candidate, stage, end])
    if share:
        yield _part(sums, _Row(candidate, sums.mixes.shape[2] + end, 0), _ENDS[end], share)


def _part(
    sums: StageSums, row: _Row, what: str, count: float, first: int = 0, recompute: RecomputePolicy = "none"
) -> PassPart:
    tables = sums.tables

    def seconds(values: Array) -> float:
        shape = (len(tables), sums.mixes.shape[2] + 2, sums.mixes.shape[3])
        return float(np.broadcast_to(values, shape)[row])

    forward, backward = (
        {cause: found for cause, values in vars(each).items() if (found := seconds(values)) > 0}
        for each in (tables.forward, tables.backward)
    )
    split = seconds(np.asarray(tables.weight_gradient_seconds)[..., None])
    return PassPart(what, first, count, recompute, forward, backward, split)
