"""What the training software can run, as a bound on what a search may fix and choose.

The rest of the space follows `Stack.runs` where a choice is open. A whole plan that is given may be priced on any software.
"""

from itertools import product
from typing import NamedTuple

from shardwright.base import SpecError, listed
from shardwright.costmodel import off_device
from shardwright.specs import OWN_STACK, ScheduleName, TrainingSpec, stage_ranks
from shardwright.specs.model import ModelSpec

from .fixed import Fixed

OFFLOAD_STEPS = 8
"""Shares of what may be on the host are searched in so many steps."""


def kept_by(fixed: Fixed, training: TrainingSpec) -> Fixed:
    """Return `fixed` with even stages, where the software has no others and no stages are given, and with what layers in pieces of the sequence
    need."""
    if training.sequence_chunks > 1:
        needed = {"cp": 1, "sequence_parallel": False, "offload_activations": 0}
        fixed = fixed.but(**{name: value for name, value in needed.items() if getattr(fixed, name) is None})
    if fixed.even_stages is None and fixed.stages is None and not training.software.runs.uneven_stages:
        return fixed.but(even_stages=True)
    return fixed


def why_not_split(name: ScheduleName, model: ModelSpec, training: TrainingSpec, fixed: Fixed) -> str | None:
    """Say why the software runs no plan with a schedule that splits the backward; None where it may run one."""
    runs, stack = training.software.runs.split_backward, training.stack
    if fixed.zero_stage is not None and fixed.zero_stage not in runs.zero_stages:
        return f"stack '{stack}' runs {name} with zero_stage {listed(runs.zero_stages)}, not {fixed.zero_stage}; give one of these, or schedule 1f1b"
    if fixed.recompute is not None and fixed.recompute not in runs.recompute:
        return f"stack '{stack}' runs {name} with recompute {listed(runs.recompute)}, not {fixed.recompute}; give that, or schedule 1f1b"
    if training.sequence_chunks > 1:
        return f"{name} does not go with sequence_chunks, which run again under every policy; leave them out, or give schedule 1f1b"
    if training.mlp_tiles > 1 and "full" not in runs.recompute:  # tiles run again under every policy
        return f"stack '{stack}' runs {name} without mlp_tiles, not with {training.mlp_tiles}; leave out --mlp-tiles, or give schedule 1f1b"
    ranks = stage_ranks(name, 2, 4)
    if model.tied_embeddings and ranks[0] == ranks[-1] and not runs.tied_in_a_v:
        return (
            f"{name} puts the first and the last stage on one rank, which stack '{stack}' does not run with the tied embeddings of "
            f"{model.name}; give schedule zb-h1 or interleaved-1f1b"
        )
    if name == "dualpipe-v" and training.software.overlaps_passes:
        return f"the planner does not count what {name} saves by the overlapped passes of stack '{stack}'; give a plan file, or another --stack"
    return None


def optimizer_shares(training: TrainingSpec, fixed: Fixed) -> tuple[float, ...]:
    """Return the shares of the optimizer that may be on the host, lowest first.

    Parts of it are tried only where a share or a range is asked for: in eighths, with the ends of what is asked for.
    """
    runs = training.software.runs
    if not (runs.offload_optimizer and training.method.may_leave_device):
        return (0,)
    if not (runs.offload_fractions and fixed.gives("offload_optimizer")):
        return (0, 1)
    return _shares("offload_optimizer", fixed)


class Placement(NamedTuple):
    """The shares of `Offload`, and whether the host's update is one step late."""

    optimizer: float
    gradients: float = 0
    parameters: float = 0
    nvme: float = 0
    delays: float = 0


def placements(training: TrainingSpec, fixed: Fixed) -> list[Placement]:
    """Return what may leave the device beside activations.

    Gradients go with the whole of the optimizer's share or not at all. Weights are streamed, and drives are used, only with the
    largest share of the optimizer on the host, because both cost more for each byte that they free.
    """
    shares = list(fixed.allowed("offload_optimizer", optimizer_shares(training, fixed)))
    most = max(shares, default=0)
    found = []
    for share in shares:
        gradients = [
            part for part in _open("offload_gradients", fixed) if part in (0, share) or fixed.offload_gradients
        ]
        weights = _open("offload_parameters", fixed) if share == most else [0]
        drives = _open("offload_nvme", fixed) if share == most and share else [0]
        found += [
            Placement(share, *parts, delays=bool(fixed.delayed_update))
            for parts in product(gradients, weights, drives)
            if parts[0] <= share
        ]
    kept = ("offload_gradients", "offload_parameters", "offload_nvme")
    can_delay = [one for one in found if not one.delays or (one.optimizer > 0 and not one.nvme)]
    return [one for one in can_delay if all(map(fixed.allows, kept, one[1:]))]


def _open(choice: str, fixed: Fixed) -> tuple[float, ...]:
    """Return the shares of a choice that are asked for; 0 where none is."""
    return _shares(choice, fixed) if fixed.gives(choice) else (0,)


def last_resorts(fixed: Fixed) -> list[Fixed]:
    """Return `fixed` without streamed weights and drives, then with streamed weights, then as it is, as far as these differ.

    Each is for where nothing fits with the one before.
    """
    found = []
    for kept in (("offload_parameters", "offload_nvme"), ("offload_nvme",), ()):
        free = [name for name in kept if getattr(fixed, name) is None and fixed.allows(name, 0)]
        found.append(fixed.but(**dict.fromkeys(free, 0)) if any(map(fixed.gives, free)) else fixed)
    return list(dict.fromkeys(found))


def activation_shares(fixed: Fixed) -> tuple[float, ...]:
    """Return the shares of a layer's tokens whose activations may go to the host, lowest first; 0 where none is asked for."""
    return _shares("offload_activations", fixed) if fixed.gives("offload_activations") else (0,)


def _shares(choice: str, fixed: Fixed) -> tuple[float, ...]:
    """Return eighths, the ends of the ranges that are asked for, and the fixed share."""
    limits = [limit for limit in fixed.within if limit.choice == choice]
    ends = [end for limit in limits for span in limit.ranges for end in span if end is not None]
    given = [] if getattr(fixed, choice) is None else [getattr(fixed, choice)]
    eighths = [step / OFFLOAD_STEPS for step in range(OFFLOAD_STEPS + 1)]
    return tuple(sorted({*eighths, *ends, *given}))


def check_runs(training: TrainingSpec, fixed: Fixed) -> None:
    """Refuse fixed choices that the software cannot run.

    Raises:
        SpecError: names the choice and what the software runs.
    """
    runs, stack = training.software.runs, training.stack
    if fixed.offload_optimizer and not training.method.may_leave_device:
        raise SpecError(off_device(training))
    if fixed.vocabulary_parallel == "interlaced":
        raise SpecError(
            "vocabulary_parallel 'interlaced' is not searched: 'vocab-2' never takes longer; give that, or leave it out"
        )
    if stack != OWN_STACK and (fixed.approximate or (fixed.sync and fixed.sync.approximate)):
        named = listed(fixed.approximate) if fixed.approximate else str(fixed.sync)
        raise SpecError(
            f"stack '{stack}' reduces gradients exactly, and {named} is asked for; leave it out, or plan for stack '{OWN_STACK}'"
        )
    asked: list[tuple[str, object, tuple[object, ...]]] = [
        ("order", fixed.order, runs.orders),
        ("schedule", fixed.schedule, (*runs.schedules, *(() if runs.schedules else ("1f1b",)))),
        ("zero_stage", fixed.zero_stage, runs.zero_stages),
        ("offload_optimizer", fixed.offload_optimizer, optimizer_shares(training, fixed)),
        *([] if fixed.cp == 1 else [("context_parallel", fixed.context_parallel, runs.context_parallel)]),
        *([] if fixed.ep == 1 else [("expert_dispatch", fixed.expert_dispatch, runs.expert_dispatch)]),
        ("vocabulary_parallel", fixed.vocabulary_parallel, ("none", *runs.vocabulary_parallel)),
        ("delayed_update", fixed.delayed_update, (True, False) if runs.delays_update else (False,)),
        ("even_stages", fixed.even_stages, (True, False) if runs.uneven_stages else (True,)),
    ]
    limited = {
        "pp": runs.schedules,
        "tp": runs.tensor_parallel,
        "cp": runs.context_parallel,
        "ep": runs.expert_dispatch,
    }
    asked += [(axis, getattr(fixed, axis), (1,)) for axis, allowed in limited.items() if not allowed]
    for name, _, allowed in asked:
        limits = [str(limit) for limit in fixed.within if limit.choice == name]
        if fixed.gives(name) and limits and allowed and not any(fixed.permits({name: option}) for option in allowed):
            raise SpecError(
                f"stack '{stack}' runs only {name} {listed(allowed)}, and {' and '.join(limits)} rules that out; "
                "leave out the limit, or choose another --stack"
            )
    for name, value, allowed in asked:
        if value is not None and value not in allowed:
            only = f"only {listed(allowed)}; choose that" if allowed else "nor any other; leave it out"
            raise SpecError(f"stack '{stack}' does not run {name} {_shown(value)}, {only}, or choose another --stack")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
