"""The reasons for a plan, in plain sentences with numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from shardwright.base import GIB, units
from shardwright.costmodel import (
    SAFE,
    RunClass,
    class_factors,
    estimate_plan,
    fits_probability,
    nodes_of_ranks,
    run_class,
    safe_reserve,
)
from shardwright.costmodel.op_times import Constants, OpTimes, op_times
from shardwright.costmodel.tables import host_share_bytes, usable_bytes
from shardwright.planner.branching import AsGiven, SearchResult
from shardwright.planner.space import changed, words_of
from shardwright.specs import ClusterSpec, Estimate, NodeGroup, Plan, Profile, TrainingSpec
from shardwright.specs.model import ModelSpec

from .alternatives import Alternative, alternatives

# Probability that a plan should fit with, where a run that ends early costs much.
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
    others: Sequence[Alternative] | None = None,
) -> list[str]:
    """Return sentences: the plan, what bounds its step, the cost of each changed choice, and how certain the numbers
    are. A result of a search is explained with its own training spec. `others`: its `neighbours`, where a caller has them.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    if isinstance(found, SearchResult) and found.training != training:
        training, times = found.training, None
    times = times or op_times(cluster.alone(0) if cluster.is_mixed else cluster, training)
    plan = found.plan if isinstance(found, SearchResult) else found
    estimate = estimate_plan(model, cluster, training, plan, times)
    if others is None:
        others = neighbours(found, model, cluster, training, times=times)
    nodes, constants = nodes_of_ranks(estimate, cluster), times.constants
    lines = [
        _what(plan, estimate),
        _where_time_goes(estimate),
        _memory(plan, estimate, nodes, constants),
        *_host_memory(estimate, nodes),
        *_whether_it_fits(estimate, nodes),
        *(_compared(other, estimate) for other in others),
    ]
    if _interlaced(plan):
        lines.append("The planner does not search interlaced pipelines, so no other plan is compared.")
    if cluster.is_mixed:
        lines.append("The planner does not search the neighbours of a plan on a mixed cluster.")
    if isinstance(found, SearchResult):
        lines += _searched(found)
    groups = [cluster.alone(index) for index in range(len(cluster.groups))] if cluster.is_mixed else []
    each = [op_times(group, training, constants) for group in groups] or [times]
    errors = "; and ".join(dict.fromkeys(_whose_errors(model, training, one) for one in each))
    return [*lines, _which_software(training), _how_sure(estimate, times.node.profile, errors)]


def neighbours(
    found: SearchResult | Plan,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    times: OpTimes | None = None,
) -> list[Alternative]:
    """Return the plan's `alternatives`, those that lead to the same plan joined, fastest first; none where the planner does not
    search them: on a mixed cluster, and around an interlaced pipeline.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    if isinstance(found, SearchResult) and found.training != training:
        training, times = found.training, None
    plan = found.plan if isinstance(found, SearchResult) else found
    if _interlaced(plan) or cluster.is_mixed:
        return []
    fixed = found.fixed if isinstance(found, SearchResult) else None
    times = times or op_times(cluster, training)
    return _grouped(sorted(alternatives(plan, model, cluster, training, times, fixed=fixed), key=_seconds_of))


def why_not(other: Alternative, mine: Estimate) -> str:
    """Say what prevents a neighbour, or which part of its step differs most from that of the plan."""
    if not other.divides:
        return "does not divide the model, the batch or the cluster"
    if other.estimate is None:
        return f"does not fit, {_lack(other)}"
    return difference(other.estimate, mine) + ("" if other.complete else "; its search was cut short")


def difference(other: Estimate, mine: Estimate) -> str:
    """Say which part of a step differs most, in the direction in which the whole differs: `pipeline bubble +3.1 s`."""
    slower = other.step_seconds >= mine.step_seconds
    parts = {name: value - getattr(mine.step, name) for name, value in other.step}
    cause = max(parts, key=lambda name: parts[name] if slower else -parts[name])
    return f"{_CAUSES[cause]} {_signed_seconds(parts[cause])}"


def _lack(other: Alternative) -> str:
    return f"a device lacks {other.lacking_bytes / GIB:.1f} GiB" if other.lacking_bytes else "no plan does"


def _what(plan: Plan, estimate: Estimate) -> str:
    schedule = _pipelined(plan)
    zero = f", ZeRO-{plan.zero_stage}" if plan.zero_stage else ""
    return (
        f"{plan.mesh}{zero}{_on_host(plan)}: {_batches(plan)}{schedule}: "
        f"{units.seconds(estimate.step_seconds)} a step, {estimate.tokens_per_s:,.0f} tokens/s, MFU {estimate.mfu:.1%}."
    )


def _batches(plan: Plan) -> str:
    """The microbatches of a data-parallel rank, in each group where replicas lie in several."""
    said = [
        f"{_count(one.microbatches, 'microbatch', 'es')} of {_count(one.micro_batch, 'sequence')}"
        for one in plan.by_group
    ]
    return (
        said[0] if len(said) == 1 else ", ".join(f"{one} on group {index}" for index, one in enumerate(said, start=1))
    )


def _on_host(plan: Plan) -> str:
    parts = [f"optimizer {plan.offload.optimizer_place}"] if plan.offload.optimizer_fraction else []
    parts += plan.offload.others
    parts += [f"activations {plan.activation_place}"] if plan.activation_place else []
    return "".join(f", {part}" for part in parts)


def _pipelined(plan: Plan) -> str:
    if plan.mesh.pp == 1:
        return ""
    several = f" with {plan.stages_per_rank} stages on each rank" if plan.stages_per_rank > 1 else ""
    shared = f", embedding and head split over the ranks ({plan.vocabulary_parallel})"
    return f" under {plan.schedule}{several}{shared if plan.vocabulary_parallel != 'none' else ''}"


def _interlaced(plan: Plan) -> bool:
    return plan.vocabulary_parallel == "interlaced"


def _whether_it_fits(estimate: Estimate, nodes: list[NodeGroup]) -> list[str]:
    """With what probability the peak finds room; nothing for a CPU, whose memory the published runs say nothing of."""
    if not nodes[0].device.has_own_memory:
        return []
    ranks = zip(estimate.memory, nodes, strict=True)
    probability = min(fits_probability(memory.total, node.device.memory_bytes) for memory, node in ranks)
    safe = safe_reserve()
    advice = "" if probability >= SAFE else f" --memory-reserve {safe:.2f} plans for {SAFE:.0%}."
    return [f"It fits with {probability:.0%} probability, by the errors of predicted peaks on published runs.{advice}"]


def _where_time_goes(estimate: Estimate) -> str:
    parts = sorted(estimate.step, key=lambda part: -part[1])
    shown = [f"{_CAUSES[name]} {units.seconds(value)} ({value / estimate.step_seconds:.1%})" for name, value in parts]
    kept = [text for text, (_, value) in zip(shown, parts, strict=True) if value >= 0.001 * estimate.step_seconds]
    return f"The busiest pipeline rank spends it on {', '.join(kept)}."


def _memory(plan: Plan, estimate: Estimate, nodes: list[NodeGroup], constants: Constants) -> str:
    usable = [usable_bytes(node.device, constants) for node in nodes]
    rank = max(range(len(estimate.memory)), key=lambda index: estimate.memory[index].total / usable[index])
    used, have = estimate.memory[rank].total, usable[rank]
    name, size = max(estimate.memory[rank], key=lambda part: part[1])
    fullest = plan.by_group[estimate.groups[rank]] if estimate.groups else plan
    layers = Counter(layer.recompute for stage in fullest.stages for layer in stage.each_layer())
    again = layers["full"] + layers["selective"]
    fits = used <= have
    whose = "The plan" if not estimate.groups else f"Group {estimate.groups[rank] + 1}"
    recompute = f"{whose} recomputes {again} of {plan.layer_count} layers" if again else "It recomputes no layer"
    name_of_rank = estimate.rank_name(rank)
    several = len(estimate.memory) > 1
    which = f"{name_of_rank[0].upper()}{name_of_rank[1:]} is the fullest:" if several else "Each device holds"
    over = "" if fits else " The plan does not fit."
    return (
        f"{which} {used / GIB:.1f} of {have / GIB:.1f} usable GiB ({used / have:.0%}), most of it {name.replace('_', ' ')} "
        f"({size / GIB:.1f} GiB).{over} {recompute}."
    )


def _host_memory(estimate: Estimate, nodes: list[NodeGroup]) -> list[str]:
    """How much of the host's memory the optimizer and the activations there take."""
    if not max(estimate.host_bytes):
        return []
    rank = max(range(len(nodes)), key=lambda index: estimate.host_bytes[index] / host_share_bytes(nodes[index]))
    used, have = estimate.host_bytes[rank], host_share_bytes(nodes[rank])
    reserve = nodes[rank].host.memory_reserve or 0.0
    kept = f"; {reserve:.1%} of it stays free for the system" if reserve else ""
    over = "" if used <= have else " The plan does not fit the host."
    return [
        f"On the host each device holds {used / GIB:.1f} of {have / GIB:.1f} usable GiB ({used / have:.0%}){kept}.{over}"
    ]


def _seconds_of(other: Alternative) -> float:
    return other.estimate.step_seconds if other.estimate else float("inf")


def _grouped(others: Iterable[Alternative]) -> list[Alternative]:
    """Join the changes that lead to the same plan."""
    found: list[Alternative] = []
    for other in others:
        if found and other.plan is not None and other.plan == found[-1].plan:
            complete = found[-1].complete and other.complete
            found[-1] = replace(found[-1], change=f"{found[-1].change}, or {other.change}", complete=complete)
        else:
            found.append(other)
    return found


def _compared(other: Alternative, mine: Estimate) -> str:
    if not other.divides:
        return f"{other.change} does not divide the model, the batch or the cluster."
    if other.estimate is None:
        return f"With {other.change}: does not fit, {_lack(other)}."
    seconds, change = other.estimate.step_seconds, other.estimate.step_seconds / mine.step_seconds - 1
    why = f", {difference(other.estimate, mine)}" if abs(change) > 0.0005 else ""
    cut = "" if other.complete else "; its search was cut short"
    mesh = f" on {other.plan.mesh}" if other.plan else ""
    return f"With {other.change}: {units.seconds(seconds)}{mesh}, {_how_much(change)}{why}{cut}."


def _how_much(change: float) -> str:
    if change >= 1:
        return f"{1 + change:.1f} times as long"
    return f"{abs(change):.1%} {'slower' if change >= 0 else 'faster'}"


def what_was_given_up(found: SearchResult) -> list[str]:
    """Say what the fastest plan would take, where a simpler one was chosen."""
    if found.fastest is None or found.fastest.step_seconds > found.estimate.step_seconds * (1 - 0.0005):
        return []
    fastest, seconds = found.fastest.plan, found.fastest.step_seconds
    other = found.fastest.training or found.training
    named = "".join(f", {words_of(other, name)}" for name in changed(other, found.training))
    return [
        f"The fastest plan, {fastest.mesh}{_pipelined(fastest)}{_on_host(fastest)}{named}, would take {units.seconds(seconds)}, "
        f"{1 - seconds / found.estimate.step_seconds:.1%} less, which the prediction cannot resolve; this plan is simpler."
    ]


def what_was_chosen(found: SearchResult) -> list[str]:
    """Say what the planner chose of the training spec, and what the given values would take. Choices whose given values lead to
    the same plan share a line."""
    alike: list[list[AsGiven]] = []
    for choice in found.as_given:
        same = next((some for some in alike if some[0].fastest == choice.fastest), None)
        if same is None:
            alike.append([choice])
        else:
            same.append(choice)
    return [_chosen_line(found, choices) for choices in alike]


def _chosen_line(found: SearchResult, choices: list[AsGiven]) -> str:
    chosen = " and ".join(words_of(found.training, choice.name) for choice in choices)
    given = " or ".join(f"with {words_of(found.given, choice.name)}" for choice in choices)
    fastest = choices[0].fastest
    if fastest is None:
        return f"The planner chose {chosen}; {given} no plan was found that fits."
    mesh = f" ({fastest.plan.mesh})" if fastest.plan.mesh != found.plan.mesh else ""
    change = fastest.step_seconds / found.estimate.step_seconds - 1
    simpler = ", but this plan is simpler" if change < -0.0005 else ""
    return (
        f"The planner chose {chosen}; {given} the fastest plan{mesh} takes {units.seconds(fastest.step_seconds)}, "
        f"{_how_much(change)}{simpler}."
    )


def _searched(found: SearchResult) -> list[str]:
    lines = [f"{runner.plan.mesh} would take {units.seconds(runner.step_seconds)}." for runner in found.runners_up]
    proven = (
        "none can be faster by this cost model"
        if found.gap < 1e-6
        else f"none can be more than {found.gap:.2%} faster by this cost model"
    )
    ended = "" if found.complete else "; the time limit ended the search"
    as_given = ", with the training spec as given," if found.as_given else ""
    lines.append(
        f"Of {found.candidates_total:,} combinations of mesh, ZeRO stage, microbatch, schedule and offload{as_given} {proven} "
        f"({found.candidates_solved:,} had to be solved, {found.seconds:.2f} s{ended})."
    )
    return lines


def _which_software(training: TrainingSpec) -> str:
    stack = training.software
    return f"The estimate is for the stack '{stack.name}': {stack.about}."


_FEW_DOCUMENTS = 5
_CLASS_WORDS: dict[RunClass, str] = {
    "dense": "dense models in 16 bits",
    "low precision": "matmuls in less than 16 bits, to which no constant is fitted",
    "experts": "experts, to which no constant is fitted",
    "other device": "devices to which no constant is fitted",
    "adapters": "frozen weights (adapters)",
    "unsettled": "software or devices whose times vary for reasons outside the plan",
}


def _whose_errors(model: ModelSpec, training: TrainingSpec, times: OpTimes) -> str:
    """Which errors the interval comes from."""
    if times.error_deviation is not None:
        return "the errors of the profile on points that its fit left out"
    kind = run_class(model, times.node.device, training)
    documents = class_factors()[kind].documents
    few = ", so few that it is wide" if documents < _FEW_DOCUMENTS else ""
    return (
        f"the errors on published runs with {_CLASS_WORDS[kind]}, from {documents} documents{few}, each predicted by a "
        "fit to the others"
    )


def _how_sure(estimate: Estimate, profile: Profile | None, errors: str) -> str:
    interval = estimate.step_seconds_intervals[0]
    rests = "data sheets and on constants fitted to published measurements, none of them from this cluster"
    if profile is not None:
        rests = f"a profile of {profile.fingerprint.device}, measured on {profile.fingerprint.date[:10]}"
    elif estimate.basis == "profile":
        rests = "rates measured on this machine"
    return (
        f"The prediction rests on {rests}. With {interval.level:.0%} probability a step takes {units.seconds(interval.low)} to "
        f"{units.seconds(interval.high)}. The interval comes from {errors}."
    )


def _signed_seconds(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{units.seconds(abs(value))}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
