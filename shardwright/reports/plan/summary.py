"""A plan in about ten lines of 80 columns: its choices, its predicted figures, and what a simpler plan would cost."""

import textwrap
from dataclasses import dataclass

from shardwright.base import GIB
from shardwright.base import units as readable
from shardwright.costmodel import nodes_of_ranks
from shardwright.costmodel.op_times import CALIBRATED
from shardwright.costmodel.tables import usable_bytes
from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .breakdown import words
from .comparison import ComparedPlan
from .others import OtherPlan, other_line
from .words import document_words, in_groups, parameter_words, schedule_words

_WIDTH = 80
_LABEL = 10


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the short form shows of a search.

    Attributes:
        rival: the simplest rival of the plan; None where nothing is simpler.
        candidates: combinations of mesh, ZeRO stage, microbatch, schedule and offload that were searched.
        gap: largest share of the step that a better plan could save by this cost model.
        complete: False where the time limit ended the search.
        assumed: what the catalog gave of the cluster; empty where the user gave all.
        others: plans that are faster, simpler or leave more memory free.
        notes: sentences to print below.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate
    rival: ComparedPlan | None
    candidates: int
    gap: float
    complete: bool
    assumed: str = ""
    others: tuple[OtherPlan, ...] = ()
    notes: tuple[str, ...] = ()


def summary_text(summary: Summary) -> str:
    """The short form, in lines of at most 80 columns."""
    training = summary.training
    title = (
        f"{summary.model.name} ({parameter_words(summary.model)}) on {summary.cluster.name}, "
        f"batch {readable.count(training.global_batch)} x {readable.count(training.seq_len)} tokens"
    )
    lines = textwrap.wrap(title, _WIDTH)
    for label, text in _lines(summary):
        indent = " " * _LABEL
        lines += textwrap.wrap(f"{label:<{_LABEL}}{text}", _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)


def _lines(summary: Summary) -> list[tuple[str, str]]:
    trainable = summary.training.trainable
    return [
        ("plan", _choices(summary.plan)),
        *([] if trainable.trains_all else [("trains", f"{trainable}; everything else is frozen")]),
        *([("documents", document_words(summary.training))] if summary.training.lengths else []),
        ("step", summary.estimate.words),
        ("memory", _memory(summary.plan, summary.estimate, summary.cluster)),
        ("bound by", _bound(summary.estimate)),
        ("simpler", _rival(summary.rival, summary.estimate)),
        ("search", _searched(summary)),
        ("rests on", _basis(summary.estimate, summary.cluster, summary.training)),
        *([("assumes", summary.assumed)] if summary.assumed else []),
        *(("or", other_line(other, summary.plan, summary.estimate)) for other in summary.others),
        *(("note", note) for note in summary.notes),
    ]


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
    return f"{used / GIB:.1f} of {usable / GIB:.1f} usable GiB on {where}, {readable.size(largest)} for {words(part)}{on_host}"


def _bound(estimate: Estimate) -> str:
    first, second = sorted(estimate.step, key=lambda part: -part[1])[:2]
    shown = [
        f"{words(name)}, {readable.seconds(seconds)} ({readable.share(seconds / estimate.step_seconds)})"
        for name, seconds in (first, second)
    ]
    return f"{shown[0]}; next: {shown[1]}" if second[1] > 0 else shown[0]


def _rival(rival: ComparedPlan | None, mine: Estimate) -> str:
    if rival is None:
        return "none; this plan already has at most one mesh axis"
    if rival.plan is None or rival.estimate is None:
        return f"none: {rival.reason}"
    seconds = rival.estimate.step_seconds
    zero = f", ZeRO-{rival.plan.zero_stage}" if rival.plan.zero_stage else ""
    return f"{rival.plan.mesh}{zero} ({rival.name}): {readable.seconds(seconds)}, {slower(seconds / mine.step_seconds)}"


def slower(ratio: float) -> str:
    """A ratio of step times in words: `6.2% slower`, `as fast`, `2.4 times as long`."""
    if ratio >= 2:
        return f"{readable.number(ratio)} times as long"
    if abs(ratio - 1) < 0.0005:
        return "as fast"
    return f"{readable.share(abs(ratio - 1))} {'slower' if ratio > 1 else 'faster'}"


def _searched(summary: Summary) -> str:
    gap = f"no plan is more than {summary.gap:.2%} faster" if summary.gap >= 5e-5 else "no plan is faster"
    ended = "" if summary.complete else "; the time limit ended the search"
    return f"{readable.count(summary.candidates)} combinations; {gap} by this cost model{ended}"


def _basis(estimate: Estimate, cluster: ClusterSpec, training: TrainingSpec) -> str:
    profile = cluster.groups[0].profile
    if profile is not None:
        basis = f"a profile of {profile.fingerprint.device}, measured on {profile.fingerprint.date[:10]}"
    elif estimate.basis == "profile":
        basis = "rates measured on this machine"
    else:
        basis = "data sheets and fitted constants, not on measurements of this cluster"
    return basis if training.stack == OWN_STACK else f"{basis}; estimated for the stack '{training.stack}'"
