"""Why a plan is what it is, in plain sentences with numbers."""

from collections import Counter

from shardwright.costmodel import estimate_plan, is_unsettled
from shardwright.costmodel.op_times import CALIBRATED, OpTimes, op_times
from shardwright.costmodel.tables import usable_bytes
from shardwright.planner.branching import SearchResult
from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .alternatives import Alternative, alternatives

_GIB = 2**30
_CAUSES = {
    "compute": "compute",
    "recompute": "recomputation",
    "tensor_parallel": "tensor-parallel communication",
    "context_parallel": "context-parallel communication",
    "expert_parallel": "expert-parallel communication",
    "data_parallel": "data-parallel communication",
    "pipeline_transfer": "waiting for messages between stages",
    "pipeline_bubble": "pipeline bubble",
    "host_copy": "copies to and from the host",
    "straggler": "waiting for the slowest rank",
    "optimizer": "optimizer",
}


def explain(
    found: SearchResult | Plan,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    times: OpTimes | None = None,
) -> list[str]:
    """Sentences: what the plan is, what bounds it, what changing one choice would cost, and how sure all that is.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    times = times or op_times(cluster, training)
    plan = found.plan if isinstance(found, SearchResult) else found
    estimate = estimate_plan(model, cluster, training, plan, times)
    lines = [_what(plan, estimate), _where_time_goes(estimate), _memory(plan, estimate, cluster)]
    fixed = found.fixed if isinstance(found, SearchResult) else None
    if plan.mesh.cp > 1 or plan.mesh.ep > 1:
        lines.append("What other choices would cost is left out: the planner does not search plans with cp or ep.")
    else:
        others = alternatives(plan, model, cluster, training, times, fixed=fixed)
        lines += [_compared(other, estimate) for other in sorted(others, key=_seconds_of)]
    if isinstance(found, SearchResult):
        lines += _searched(found)
    return [*lines, _which_software(training), _how_sure(estimate, cluster, unsettled=is_unsettled(cluster, training))]


def _what(plan: Plan, estimate: Estimate) -> str:
    schedule = "" if plan.mesh.pp == 1 else f" under {plan.schedule}"
    if plan.stages_per_rank > 1:
        schedule += f" with {plan.stages_per_rank} stages on each rank"
    zero = f", ZeRO-{plan.zero_stage}" if plan.zero_stage else ""
    host = ", optimizer on the host" if plan.offload.optimizer_fraction else ""
    return (
        f"{plan.mesh}{zero}{host}: {_count(plan.microbatches, 'microbatch', 'es')} of {_count(plan.micro_batch, 'sequence')}{schedule}: "
        f"{_seconds(estimate.step_seconds)} a step, {estimate.tokens_per_s:,.0f} tokens/s, MFU {estimate.mfu:.1%}."
    )


def _where_time_goes(estimate: Estimate) -> str:
    parts = sorted(estimate.step, key=lambda part: -part[1])
    shown = [f"{_CAUSES[name]} {_seconds(value)} ({value / estimate.step_seconds:.1%})" for name, value in parts]
    kept = [text for text, (_, value) in zip(shown, parts, strict=True) if value >= 0.001 * estimate.step_seconds]
    return f"The busiest pipeline rank spends it on {', '.join(kept)}."


def _memory(plan: Plan, estimate: Estimate, cluster: ClusterSpec) -> str:
    rank = max(range(len(estimate.memory)), key=lambda index: estimate.memory[index].total)
    used, have = estimate.memory[rank].total, usable_bytes(cluster.groups[0].device, CALIBRATED)
    name, size = max(estimate.memory[rank], key=lambda part: part[1])
    layers = Counter(layer.recompute for stage in plan.stages for layer in stage.each_layer())
    again = layers["full"] + layers["selective"]
    fits = used <= have
    none = "no layer has to be recomputed" if fits else "no layer is recomputed"
    recompute = f"{again} of {plan.layer_count} layers are recomputed" if again else none
    which = f"Pipeline rank {rank} is the fullest" if plan.mesh.pp > 1 else "Each device is filled"
    return (
        f"{which}: {used / _GIB:.1f} of {have / _GIB:.1f} usable GiB ({used / have:.0%}), most of it {name.replace('_', ' ')} "
        f"({size / _GIB:.1f} GiB){'' if fits else ', so this plan does not fit'}; {recompute}."
    )


def _seconds_of(other: Alternative) -> float:
    return other.estimate.step_seconds if other.estimate else float("inf")


def _compared(other: Alternative, mine: Estimate) -> str:
    if other.estimate is None:
        lacks = (
            f"{other.lacking_bytes / _GIB:.1f} GiB too much on a device"
            if other.lacking_bytes
            else "no plan of it fits"
        )
        return f"With {other.change}: does not fit, {lacks}."
    seconds, change = other.estimate.step_seconds, other.estimate.step_seconds / mine.step_seconds - 1
    differences = {name: value - getattr(mine.step, name) for name, value in other.estimate.step}
    cause = max(differences, key=lambda name: differences[name] if change >= 0 else -differences[name])
    why = f", {_CAUSES[cause]} {_signed_seconds(differences[cause])}" if abs(change) > 0.0005 else ""
    word = "slower" if change >= 0 else "faster"
    return f"With {other.change}: {_seconds(seconds)}, {abs(change):.1%} {word}{why}."


def _searched(found: SearchResult) -> list[str]:
    lines = [f"{runner.plan.mesh} would take {_seconds(runner.step_seconds)}." for runner in found.runners_up]
    proven = (
        "none can be faster by this cost model"
        if found.gap < 1e-6
        else f"none can be more than {found.gap:.2%} faster by this cost model"
    )
    ended = "" if found.complete else "; the time limit ended the search"
    return [
        *lines,
        f"Of {found.candidates_total:,} combinations of mesh, ZeRO stage, microbatch, schedule and offload {proven} "
        f"({found.candidates_solved:,} had to be solved, {found.seconds:.2f} s{ended}).",
    ]


def _which_software(training: TrainingSpec) -> str:
    stack = training.software
    plans = "" if stack.name == OWN_STACK else ". Which plans that software can run is not known here"
    return f"The estimate is for the stack '{stack.name}': {stack.about}{plans}."


def _how_sure(estimate: Estimate, cluster: ClusterSpec, *, unsettled: bool) -> str:
    interval, profile = estimate.step_seconds_intervals[0], cluster.groups[0].profile
    rests = "data sheets and on constants fitted to published measurements, none of them from this cluster"
    if profile is not None:
        rests = f"a profile of {profile.fingerprint.device}, measured on {profile.fingerprint.date[:10]}"
    elif estimate.basis == "profile":
        rests = "rates measured on this machine"
    runs = "published runs of this kind, which vary for reasons no plan shows," if unsettled else "published runs"
    return (
        f"The prediction rests on {rests}. With {interval.level:.0%} probability a step takes {_seconds(interval.low)} to "
        f"{_seconds(interval.high)}: so far off were {runs} when their source was left out of the fit."
    )


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _signed_seconds(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_seconds(abs(value))}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
