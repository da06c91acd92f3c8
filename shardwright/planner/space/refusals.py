"""Messages where nothing divides: the fixed choice, the allowed values, and the nearest one that divides."""

from collections.abc import Callable
from math import prod
from typing import get_args

from shardwright.base import IntArray, SpecError, divisors, listed
from shardwright.costmodel import loses_errors, ulysses_degrees, why_not_agree
from shardwright.specs import (
    ClusterSpec,
    ScheduleName,
    Sync,
    TrainingSpec,
    ZeroStage,
    has_shape,
    named_stack,
    splits_backward,
    stack_names,
)
from shardwright.specs.model import ModelSpec

from .fixed import Fixed
from .limits import LIMITED
from .meshes import Degrees, meshes_of
from .software import why_not_split
from .stage_sizes import divides_into_stages


def limited_too_far(fixed: Fixed, columns_of: Callable[[Fixed], Callable[[str], IntArray]]) -> str | None:
    """Say which limit leaves nothing, and with which values something divides; None where limits are not the reason.

    `columns_of` gives the columns of the space of other choices, and raises `SpecError` where nothing divides.
    """
    for choice in dict.fromkeys(limit.choice for limit in fixed.within):
        try:
            found = sorted(set(columns_of(fixed.without_limit(choice))(choice).tolist()))
        except SpecError:
            continue
        mine = " and ".join(str(limit) for limit in fixed.within if limit.choice == choice)
        names = LIMITED[choice].values
        values = [names[number] for number in found] if names else found
        near = "" if names or len(found) == 1 else f"; the nearest is {_nearest(fixed, choice, found)}"
        rest = fixed.without_limit(choice)
        others = "without that limit" if rest == Fixed() else f"with {rest}"
        return f"no plan with {mine} divides; {others} {choice} can be {listed(values)}{near}"
    try:
        columns_of(fixed.but(within=()))
    except SpecError:
        return None
    return f"no plan divides that keeps all of {listed(fixed.within)}; leave out one of them" if fixed.within else None


def _nearest(fixed: Fixed, choice: str, values: list[int]) -> int:
    """Return the value that is closest to an end of the limits of a choice."""
    spans = [span for limit in fixed.within if limit.choice == choice for span in limit.ranges]
    ends = [end for span in spans for end in span if end is not None]
    return min(values, key=lambda value: min(abs(value - end) for end in ends))


def no_replicas(training: TrainingSpec, fixed: Fixed) -> str:
    """Explain that no plan with the fixed choices has replicas that an approximation could be between."""
    sync = fixed.sync or Sync()
    if reason := why_not_agree(sync, training):
        return reason
    if loses_errors(sync, training):
        return (
            f"sync {sync.method} adds the errors of one step to the next, and gradients in fp16 are not finite at times; give --precision bf16 or "
            "fp32, or leave --sync out"
        )
    return (
        f"sync '{fixed.sync}' is between replicas, with the optimizer on the device, and with zero_stage 1 or more beside cp and ep; no "
        "plan of these choices has that: allow dp_replicate of 2 or more, or leave --sync out"
    )


def no_exchange(tp: int, model: ModelSpec, fixed: Fixed) -> str:
    """Explain that no ranks can trade heads in front of a ring with the fixed choices."""
    kind, cp, degree = fixed.context_parallel, fixed.cp, fixed.ulysses_degree
    if degree and degree > 1 and kind not in (None, "ulysses-ring"):
        return f"ulysses_degree {degree} belongs to context_parallel ulysses-ring, not {kind}; leave out one of them"
    allowed = [
        other for other in ulysses_degrees(tp, model) if other > 1 and (cp is None or (other < cp and cp % other == 0))
    ]
    named = f"ulysses_degree {degree}" if degree else "context_parallel ulysses-ring"
    of_cp = "" if cp is None else f", and divides cp {cp}"
    which = f"allowed: {listed(allowed)}" if allowed else "none does; choose ring or ulysses"
    return f"{named} needs a number of ranks from 2 on, fewer than cp, that divides the heads which tp {tp} leaves of {model.name}{of_cp}; {which}"


def no_mesh(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> str:
    devices, layers = cluster.devices, model.layer_count
    degrees = {n: v for n in ("tp", "cp", "pp", "dp_replicate", "dp_shard") if (v := getattr(fixed, n)) is not None}
    shown = " x ".join(f"{name} {value}" for name, value in degrees.items())
    if fixed.pp is not None and fixed.pp > layers:
        return f"pp {fixed.pp} is more than the {layers} layers of {model.name}; give {layers} or fewer"
    if degrees and devices % prod(degrees.values()):
        return (
            f"{shown} does not divide the {devices} devices of {cluster.name}; "
            f"their product must be one of {listed(divisors(devices))}"
        )
    if fixed.zero_stage == 0 and fixed.dp_shard not in (None, 1):
        return f"zero_stage 0 shards nothing and dp_shard is {fixed.dp_shard}; give zero_stage 1, 2 or 3, or dp_shard 1"
    if fixed.zero_stage and fixed.dp_shard == 1 and not fixed.cp:
        return f"zero_stage {fixed.zero_stage} shards over dp_shard, which is 1; give zero_stage 0, or dp_shard of 2 or more"
    unbatched = fixed.model_copy(update={"zero_stage": None})
    if fixed.zero_stage is not None and any(True for _ in meshes_of(model, cluster, training, unbatched)):
        return (
            f"zero_stage {fixed.zero_stage} needs two or more data-parallel ranks to shard over, and {fixed} "
            f"on {devices} devices leaves none; give zero_stage 0"
        )
    return _no_batch(model, cluster, training, fixed)


def _no_batch(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> str:
    """Explain that no mesh divides the batch: name the possible data-parallel degrees and the nearest batch."""
    whole = training.model_copy(update={"global_batch": cluster.devices})
    open_split = fixed.model_copy(update={"zero_stage": None})
    dps = sorted({m.dp for m in meshes_of(model, cluster, whole, open_split)})
    if not dps:
        return (
            f"no mesh with {fixed} uses all {cluster.devices} devices of {cluster.name} for {model.name} "
            f"({model.layer_count} layers); free one of them"
        )
    batch = training.global_batch
    near = min((max(1, round(batch / dp)) * dp for dp in dps), key=lambda size: abs(size - batch))
    return (
        f"global batch {batch} does not divide over the data-parallel ranks: on {cluster.devices} devices with {fixed} "
        f"their number is one of {listed(dps)}; the nearest batch that does is {near}"
    )


def no_microbatch(meshes: list[Degrees], training: TrainingSpec, fixed: Fixed) -> str:
    per_rank = sorted({training.global_batch // m.dp for m in meshes})
    allowed = sorted({size for sequences in per_rank for size in divisors(sequences)})
    return (
        f"micro_batch {fixed.micro_batch} does not divide the sequences of a data-parallel rank "
        f"({listed(per_rank)} of global batch {training.global_batch}); allowed: {listed(allowed)}"
    )


def no_placement(training: TrainingSpec, fixed: Fixed) -> str:
    """Explain that meshes and microbatches divide, but none of them can have off the device what is asked for."""
    gradients, weights = fixed.offload_gradients, fixed.offload_parameters
    if gradients:
        return (
            f"offload_gradients {gradients:g} keeps gradients on the host between the microbatches of one data-parallel rank, and "
            f"{fixed} leaves no such plan; give a smaller micro_batch, no data parallelism, or leave it out"
        )
    if weights and not training.trainable.trains_all:
        return f"offload_parameters {weights:g} streams weights that are trained, and {training.trainable} freezes some; leave it out"
    stages = "0 to 2" if training.software.runs.streams_shards else "0"
    return (
        f"the shares off the device that are asked for go with no plan of {fixed}: weights are streamed to one data-parallel rank, or to "
        f"several with zero_stage {stages}; leave out one of them"
    )


def no_schedule(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, meshes: list[Degrees], fixed: Fixed
) -> str:
    """Explain that meshes and microbatches divide, but no schedule runs them with the fixed choices."""
    layers = model.layer_count
    if fixed.schedule is not None and splits_backward(fixed.schedule):
        return _no_split(fixed.schedule, model, training, meshes, fixed)
    if fixed.schedule in ("1f1b", "gpipe") and fixed.stages_per_rank not in (None, 1):
        return f"{fixed.schedule} runs one stage on each rank and stages_per_rank is {fixed.stages_per_rank}; give 1, or interleaved-1f1b"
    if (
        fixed.even_stages
        and fixed.schedule not in ("interleaved-1f1b", "breadth-first")
        and fixed.stages_per_rank in (None, 1)
    ):
        return _no_even_stages(model, cluster, training, meshes, fixed)
    if _only_ends_are_missing(layers, training, fixed):
        return (
            f"pp {fixed.pp} x stages_per_rank {fixed.stages_per_rank} divides the {layers} layers of {model.name} only with a "
            f"layer each for embedding and head, which stack '{training.stack}' does not count; "
            f"plan with --stack {next(name for name in stack_names() if named_stack(name).counts_ends)}"
        )
    if fixed.schedule == "breadth-first":
        return (
            f"breadth-first needs pp of 2 or more and pp x stages_per_rank of at most {layers} (the layers of {model.name}), with 2 stages on "
            f"each rank; nothing with {fixed} has both"
        )
    return (
        f"interleaved-1f1b needs pp of 2 or more, pp x stages_per_rank of at most {layers} (the layers of "
        f"{model.name}) and microbatches divisible by pp; nothing with {fixed} has all three"
    )


def no_shared_vocabulary(fixed: Fixed) -> str:
    """Explain that everything divides but for who has embedding and head."""
    return (
        f"vocabulary_parallel {fixed.vocabulary_parallel} needs pp of 2 or more, and schedule 1f1b, gpipe or v-half; "
        f"nothing with {fixed} has both; leave one of them out"
    )


def _no_split(name: ScheduleName, model: ModelSpec, training: TrainingSpec, meshes: list[Degrees], fixed: Fixed) -> str:
    """Explain that a schedule that splits the backward divides nothing: the software, or the shape."""
    why = why_not_split(name, model, training, fixed)
    if why is not None:
        return why
    chunks = 2 if has_shape(name, 2, 4, 4) else 1
    if fixed.stages_per_rank not in (None, chunks):
        several = "two stages" if chunks == 2 else "one stage"
        return f"{name} runs {several} on each rank and stages_per_rank is {fixed.stages_per_rank}; give {chunks}, or interleaved-1f1b"
    degrees = sorted({mesh.pp for mesh in meshes})
    needs = [f"pp of {chunks} or more"] if chunks > 1 else []
    needs.append(
        f"{'pp x 2' if chunks > 1 else 'pp'} stages that hold the {model.layer_count} layers of {model.name} nearly evenly"
    )
    needs += ["as many microbatches as stages"] if name == "dualpipe-v" else []
    zero = training.software.runs.split_backward.zero_stages
    needs += [f"zero_stage {listed(zero)}"] if zero != get_args(ZeroStage) else []
    return f"{name} needs {listed(needs)}; nothing with {fixed} has all of it, where pp is {listed(degrees)}"


def _only_ends_are_missing(layers: int, training: TrainingSpec, fixed: Fixed) -> bool:
    """Whether another stack (`Stack.counts_ends`) could run the fixed stages, unequal or more than there are layers."""
    if fixed.pp is None or fixed.stages_per_rank is None or training.software.counts_ends:
        return False
    even = bool(fixed.even_stages)
    without, counted = (
        divides_into_stages(layers, fixed.pp, fixed.stages_per_rank, even=even, counts_ends=counts_ends)
        for counts_ends in (False, True)
    )
    return counted and not without


def _no_even_stages(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, meshes: list[Degrees], fixed: Fixed
) -> str:
    """Explain that no possible pp divides the layers: name these degrees, their cause, and what would divide."""
    layers, degrees = model.layer_count, sorted({mesh.pp for mesh in meshes})
    if fixed.pp is not None:
        return (
            f"even_stages needs pp that divides the {layers} layers of {model.name}, not {fixed.pp}; "
            f"allowed: {listed(divisors(layers))}"
        )
    tensor = sorted({mesh.tp for mesh in meshes})
    uneven = training.software.runs.uneven_stages
    instead = (
        "Leave out even_stages" if uneven else f"Choose another --stack than {training.stack}, which has no others"
    )
    batch, ranks = training.global_batch, [cluster.devices // tp for tp in tensor]
    steps = {each // pp for each in ranks for pp in divisors(layers) if each % pp == 0}
    near, step = min(
        ((max(each, round(batch / each) * each), each) for each in steps), key=lambda one: abs(one[0] - batch)
    )
    return (
        f"even_stages needs pp that divides the {layers} layers of {model.name}: on {cluster.devices} devices with tp of "
        f"{listed(tensor)} and a data-parallel degree that divides the global batch {batch}, pp is {listed(degrees)}. "
        f"{instead}, or give a global batch that {step} divides (the nearest is {near})"
    )
