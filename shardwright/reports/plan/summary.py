"""A plan in about ten lines of 80 columns: its choices, its predicted figures, and what a simpler plan would cost."""

from dataclasses import dataclass

from shardwright.base import units as readable
from shardwright.costmodel import job_title, labelled_text, summary_lines
from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, TrainingSpec, skips_stages
from shardwright.specs.model import ModelSpec

from .comparison import ComparedPlan
from .others import OtherPlan, other_line


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
    return labelled_text(job_title(summary.model, summary.cluster, summary.training), _lines(summary))


def _lines(summary: Summary) -> list[tuple[str, str]]:
    return [
        *summary_lines(summary.plan, summary.estimate, summary.cluster, summary.training),
        ("simpler", _rival(summary.rival, summary.estimate)),
        ("search", _searched(summary)),
        ("rests on", _basis(summary.estimate, summary.cluster, summary.training)),
        *([("assumes", summary.assumed)] if summary.assumed else []),
        *(("or", other_line(other, summary.plan, summary.estimate)) for other in summary.others),
        *(("note", note) for note in summary.notes),
    ]


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
    plan = "no plan with every stage" if skips_stages(summary.plan.schedule) else "no plan"
    gap = f"{plan} is more than {summary.gap:.2%} faster" if summary.gap >= 5e-5 else f"{plan} is faster"
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
