"""A dry run: steps of one rank of each kind, traced and brought to the plan's number of microbatches, beside what is charged."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from shardwright.base import SpecError
from shardwright.costmodel import Charge, PlanFile, RankCharges, charged_step
from shardwright.executor.run import check_plan
from shardwright.specs import DryRun, Offload, Plan, Traced, TracedRank, TracedTraffic, TrafficAxis, UnchargedTraffic

from .collectives import Collective
from .step import Step, trace_step

SCALARS = "number of tokens, loss and norm of gradients, over all ranks"
TOKEN_COUNTS = "numbers of tokens for each expert, before these tokens go there"
ROUTER_SUMS = "sums over the tokens of each expert, for the loss on routers"
VOTES = "votes of the stages before the first step, on what they will receive"
SPLIT_LOSS = "maximum, sum and label of the logits of each token, whose vocabulary is divided"


class _Kind(NamedTuple):
    """A kind of traffic: over an axis, or for a cause that nothing is charged for."""

    axis: TrafficAxis | None
    name: str


class _Totals(NamedTuple):
    """Of a step. `activation_bytes` are those of one microbatch, and before they are extrapolated those of all."""

    calls: Mapping[_Kind, float]
    sizes: Mapping[_Kind, float]
    flops: float
    activation_bytes: float


def dry_run(plan_file: PlanFile, ranks: Sequence[int] | None = None) -> DryRun:
    """Trace one step of `ranks`, by default of one rank for each kind of pipeline rank, and compare it with its charges.

    The engine is the one of a run. Nothing is computed or sent, so any number of ranks fits this machine. Beyond three
    microbatches, steps of two and of three are traced (or more, where the schedule needs more). Their difference is counted for
    each further microbatch.

    Raises:
        SpecError: the executor does not run the plan, a rank is not of the plan, or this process is a rank already.
    """
    check_plan(plan_file)
    plan_file = _on_the_device(plan_file)
    plan, kinds = plan_file.plan, _kinds(plan_file)
    of_stage = plan.mesh.numbered().reshape(plan.mesh.pp, -1)
    chosen = [int(of_stage[alike[0], 0]) for alike in kinds] if ranks is None else list(ranks)
    for rank in chosen:
        if not 0 <= rank < plan.mesh.ranks:
            raise SpecError(
                f"rank {rank} is none of the plan's {plan.mesh.ranks} ranks; give 0 to {plan.mesh.ranks - 1}"
            )
    charges = charged_step(plan_file.model(), plan_file.cluster, plan_file.training, plan)
    try:
        traced: dict[int, tuple[tuple[int, ...], _Totals]] = {rank: _trace(plan_file, rank) for rank in chosen}
    except Exception as error:
        if found := _asked_for_values(error):
            raise SpecError(
                f"{plan_file.model_name}: its layers run what the values of their tokens say ({found.func}), which a dry run does not have; "
                "run it"
            ) from None
        raise
    return DryRun(
        world_size=plan.mesh.ranks,
        microbatches=plan.microbatches,
        traced_microbatches=next(iter(traced.values()))[0],
        ranks=tuple(_beside(rank, plan, kinds, totals, charges) for rank, (_, totals) in traced.items()),
    )


def _on_the_device(plan_file: PlanFile) -> PlanFile:
    """Return the plan with nothing off the device: what lies there passes no network, and its copies are not traced.

    Raises:
        SpecError: the plan is for documents, whose places no made-up tokens have.
    """
    plan, training = plan_file.plan, plan_file.training
    if training.lengths is not None:
        raise SpecError("a dry run has no documents of several lengths; plan without --lengths")
    stages = tuple(
        stage.model_copy(
            update={"layers": tuple(run.model_copy(update={"activation_offload": 0}) for run in stage.layers)}
        )
        for stage in plan.stages
    )
    on_device = plan.model_copy(update={"offload": Offload(), "stages": stages})
    training = training.model_copy(update={"activation_offload_layers": 0})
    return plan_file.model_copy(update={"plan": on_device, "training": training})


def _kinds(plan_file: PlanFile) -> list[tuple[int, ...]]:
    """Return the pipeline ranks in groups whose stages hold the same layers, ends and strategies, at like places."""
    plan, model = plan_file.plan, plan_file.model()
    classes = iter(model.class_of_layer)
    work = [tuple((next(classes), layer) for layer in stage.each_layer()) for stage in plan.stages]
    places, last = plan.stage_ranks, len(plan.stages) - 1
    found: dict[Hashable, list[int]] = {}
    for rank in range(plan.mesh.pp):
        own = [index for index, place in enumerate(places) if place == rank]
        kind = tuple(
            (work[index], index == 0, index == last, index < last and places[index + 1] == rank) for index in own
        )
        found.setdefault(kind, []).append(rank)
    return [tuple(group) for group in found.values()]


def _asked_for_values(error: BaseException | None) -> DynamicOutputShapeException | None:
    """Return the error of an operator whose shapes follow from values, which a pipeline's stage may have wrapped in its own."""
    while error is not None and not isinstance(error, DynamicOutputShapeException):
        error = error.__cause__ or error.__context__
    return error


def _trace(plan_file: PlanFile, rank: int) -> tuple[tuple[int, ...], _Totals]:
    """Return the numbers of microbatches that were traced, and the totals of the plan's step."""
    wanted = plan_file.plan.microbatches
    pp = plan_file.plan.mesh.pp
    for few, more in ((1, 2) if wanted == 2 else (2, 3), (pp, 2 * pp), (2 * pp, 4 * pp)):
        if more > wanted:
            break
        try:
            first, second = (_totals(trace_step(_with_microbatches(plan_file, count), rank)) for count in (few, more))
        except (SpecError, ValueError):  # the schedule needs others
            continue
        each = (wanted - few) / (more - few)
        found = _extrapolated(first, second, each)
        return (few, more), found._replace(
            activation_bytes=(second.activation_bytes - first.activation_bytes) / (more - few)
        )
    whole = _totals(trace_step(plan_file, rank))
    return (wanted,), whole._replace(activation_bytes=whole.activation_bytes / wanted)


def _with_microbatches(plan_file: PlanFile, microbatches: int) -> PlanFile:
    plan = plan_file.plan.model_copy(update={"microbatches": microbatches})
    training = plan_file.training.model_copy(update={"global_batch": plan.global_batch})
    return plan_file.model_copy(update={"plan": plan, "training": training})


def _totals(step: Step) -> _Totals:
    calls, sizes = defaultdict[_Kind, float](float), defaultdict[_Kind, float](float)
    for (collective, in_loss), count in step.collectives.items():
        kind = _kind(collective, in_loss)
        calls[kind] += count
        sizes[kind] += count * collective.size_bytes
    for (collective, in_loss), count in step.exchanged.items():
        kind = _kind(collective, in_loss)
        calls[kind] += count / step.inner_steps
        sizes[kind] += count * collective.size_bytes / step.inner_steps
    return _Totals(calls, sizes, step.flops, step.activation_bytes)


def _kind(collective: Collective, in_loss: bool) -> _Kind:
    if collective.axis is None:
        return _Kind(None, SCALARS)
    if collective.axis == "ep" and collective.dtype == torch.int64:
        return _Kind(None, TOKEN_COUNTS)
    if collective.axis in ("pp", "cp") and collective.dtype == torch.float64:
        return _Kind(None, ROUTER_SUMS)
    if collective.axis == "pp" and not collective.dtype.is_floating_point:
        return _Kind(None, VOTES)
    if collective.axis == "tp" and in_loss:
        return _Kind(None, SPLIT_LOSS)
    return _Kind(collective.axis, collective.name)


def _extrapolated(first: _Totals, second: _Totals, times: float) -> _Totals:
    """Return `first` and so many times what `second` has more."""

    def further(one: float, two: float) -> float:
        return one + times * (two - one)

    def each(one: Mapping[_Kind, float], two: Mapping[_Kind, float]) -> dict[_Kind, float]:
        return {kind: further(one.get(kind, 0), two[kind]) for kind in two}

    return _Totals(
        each(first.calls, second.calls),
        each(first.sizes, second.sizes),
        further(first.flops, second.flops),
        further(first.activation_bytes, second.activation_bytes),
    )


def _beside(
    rank: int, plan: Plan, kinds: list[tuple[int, ...]], totals: _Totals, charges: Sequence[RankCharges]
) -> TracedRank:
    pipeline_rank = int(np.argwhere(plan.mesh.numbered() == rank)[0, 0])
    charged, nothing = charges[pipeline_rank], Charge(0, 0)
    by_axis = {kind for kind in totals.sizes if kind.axis} | {_Kind(*kind) for kind in charged.traffic}
    traffic = []
    for kind in sorted(by_axis, key=str):
        charge = next((found for key, found in charged.traffic.items() if key == tuple(kind)), nothing)
        assert kind.axis is not None
        traffic.append(
            TracedTraffic(
                axis=kind.axis,
                collective=kind.name,
                calls=Traced(traced=totals.calls.get(kind, 0), charged=charge.calls),
                bytes=Traced(traced=totals.sizes.get(kind, 0), charged=charge.size_bytes),
            )
        )
    return TracedRank(
        rank=rank,
        pipeline_rank=pipeline_rank,
        alike=next(group for group in kinds if pipeline_rank in group),
        traffic=tuple(traffic),
        uncharged=tuple(
            UnchargedTraffic(cause=kind.name, calls=totals.calls[kind], bytes=totals.sizes[kind])
            for kind in totals.sizes
            if kind.axis is None
        ),
        flops=Traced(traced=totals.flops, charged=charged.flops),
        activation_bytes=Traced(traced=totals.activation_bytes, charged=charged.activation_bytes),
    )
