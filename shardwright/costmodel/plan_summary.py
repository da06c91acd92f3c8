"""A plan in a few lines of 80 columns: its choices and its predicted figures."""

import textwrap
from collections.abc import Callable, Iterable

from shardwright.base import GIB
from shardwright.base import units as readable
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .checks import nodes_of_ranks
from .op_times import CALIBRATED
from .tables import usable_bytes

_WIDTH = 80
_LABEL = 10


def labelled_text(title: str, lines: Iterable[tuple[str, str]]) -> str:
    """Return the title and lines of (label, text), wrapped at 80 columns."""
    wrapped = textwrap.wrap(title, _WIDTH)
    for label, text in lines:
        indent = " " * _LABEL
        wrapped += textwrap.wrap(f"{label:<{_LABEL}}{text}", _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(wrapped)


def job_title(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> str:
    """Model, cluster and batch in one sentence."""
    return (
        f"{model.name} ({parameter_words(model)}) on {cluster.name}, "
        f"batch {readable.count(training.global_batch)} x {readable.count(training.seq_len)} tokens"
    )


def summary_lines(
    plan: Plan, estimate: Estimate, cluster: ClusterSpec, training: TrainingSpec
) -> list[tuple[str, str]]:
    """What a plan is and what is predicted of it, as (label, text)."""
    return [
        ("plan", _choices(plan)),
        *([] if training.trainable.trains_all else [("trains", f"{training.trainable}; everything else is frozen")]),
        *([("pieces", words)] if (words := piece_words(training)) else []),
        *([("documents", document_words(training))] if training.lengths else []),
        ("step", estimate.words),
        ("memory", _memory(plan, estimate, cluster)),
        ("bound by", _bound(estimate)),
    ]


def part_words(name: str) -> str:
    """The field's name of a part of an estimate as words."""
    return name.replace("_", " ")


def schedule_words(plan: Plan) -> str:
    """`1f1b`, `interleaved-1f1b, 4 stages a rank`, or `none` without a pipeline."""
    if plan.mesh.pp == 1:
        return "none"
    return plan.schedule if plan.stages_per_rank == 1 else f"{plan.schedule}, {plan.stages_per_rank} stages a rank"


def in_groups(plan: Plan, words: Callable[[Plan], str], between: str = ", ") -> str:
    """What `words` says of the plan, or of its replicas in each group where that differs: `none on group 1, full on group 2`."""
    said = [words(one) for one in plan.by_group]
    return (
        said[0]
        if len(set(said)) == 1
        else between.join(f"{one} on group {index}" for index, one in enumerate(said, start=1))
    )


def parameter_words(model: ModelSpec) -> str:
    """How many parameters were read: `46.7 G parameters, 12.9 G of them active`, the second where experts are routed to."""
    total, active = model.parameter_count, model.active_parameter_count
    words = f"{readable.amount(total)} parameters"
    return words if active == total else f"{words}, {readable.amount(active)} of them active"


def piece_words(training: TrainingSpec) -> str:
    """What of a layer runs in pieces of the sequence; empty where nothing does."""
    for what, pieces in (("layers", training.sequence_chunks), ("feed-forwards", training.mlp_tiles)):
        if pieces > 1:
            return f"{what} in {pieces} pieces of the sequence, each run again in the backward"
    return ""


def document_words(training: TrainingSpec) -> str:
    """How long documents are, and what a sequence holds of them."""
    assert training.lengths is not None, "asked for documents of a job that has none"
    of = f"{training.lengths.name}, {training.lengths.mean_tokens:,.0f} tokens on average"
    if training.packing == "packed":
        return f"{of}; packed, each attends to itself alone"
    return f"{of}; padded, {1 - training.used_share:.0%} of a sequence is padding"


def _choices(plan: Plan) -> str:
    parts = [str(plan.mesh)]
    if plan.zero_stage:
        parts.append(f"ZeRO-{plan.zero_stage}")
    if plan.mesh.pp > 1:
        parts.append(schedule_words(plan))
    if plan.mesh.tp > 1 and not plan.sequence_parallel:
        parts.append("no sequence parallelism")
    parts += [
        in_groups(plan, _microbatches),
        in_groups(plan, _recompute),
        f"optimizer {plan.offload.optimizer_place}",
        *plan.offload.others,
        *([f"activations {plan.activation_place}"] if plan.activation_place else []),
    ]
    return ", ".join(parts)


def _microbatches(plan: Plan) -> str:
    return f"{_count(plan.microbatches, 'microbatch', 'es')} of {_count(plan.micro_batch, 'sequence', 's')}"


def _count(number: int, noun: str, plural: str) -> str:
    return f"{readable.count(number)} {noun}{plural if number > 1 else ''}"


def _recompute(plan: Plan) -> str:
    """`no recompute`, `full recompute`, or of how many layers: `full recompute in 12 of 80 layers`."""
    counts: dict[str, int] = {}
    for stage in plan.stages:
        for run in stage.layers:
            counts[run.recompute] = counts.get(run.recompute, 0) + run.count
    if len(counts) == 1:
        return f"{next(iter(counts)).replace('none', 'no')} recompute"
    kinds = (policy for policy in ("selective", "full") if policy in counts)
    return " and ".join(f"{policy} recompute in {counts[policy]} of {plan.layer_count} layers" for policy in kinds)


def _memory(plan: Plan, estimate: Estimate, cluster: ClusterSpec) -> str:
    room = [usable_bytes(node.device, CALIBRATED) for node in nodes_of_ranks(estimate, cluster)]
    rank = max(range(len(estimate.memory)), key=lambda index: estimate.memory[index].total / room[index])
    used, usable = estimate.memory[rank].total, room[rank]
    part, largest = max(estimate.memory[rank], key=lambda item: item[1])
    of_group = f" of group {estimate.groups[rank] + 1}" if estimate.groups else ""
    where = estimate.rank_name(rank) if plan.mesh.pp > 1 else f"each device{of_group}"
    host = max(estimate.host_bytes, default=0.0)
    on_host = f"; {readable.size(host)} of host memory for each device" if host > 0 else ""
    return f"{used / GIB:.1f} of {usable / GIB:.1f} usable GiB on {where}, {readable.size(largest)} for {part_words(part)}{on_host}"


def _bound(estimate: Estimate) -> str:
    first, second = sorted(estimate.step, key=lambda part: -part[1])[:2]
    shown = [
        f"{part_words(name)}, {readable.seconds(seconds)} ({readable.share(seconds / estimate.step_seconds)})"
        for name, seconds in (first, second)
    ]
    return f"{shown[0]}; next: {shown[1]}" if second[1] > 0 else shown[0]
