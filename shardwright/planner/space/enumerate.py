"""The space of plans: every mesh, ZeRO stage, microbatch, schedule and optimizer placement that divides, as arrays.

A new dimension needs a row of `specs.CHOICES`, a generator of its values here, and a bound. What the software can run
(`Stack.runs`) bounds the space. Mixed clusters have a room of their own, `planner/mixed/`.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray, SpecError, distinct, divisors
from shardwright.costmodel import (
    can_update,
    check_context_parallel,
    check_expert_parallel,
    check_layer_counts,
    check_sequence,
    check_sequence_chunks,
    check_tensor_parallel,
    check_trainable,
    loses_errors,
    why_not_agree,
    why_not_updated,
)
from shardwright.specs import (
    COLUMNS,
    CONTEXT_PARALLEL,
    EXPERT_DISPATCH,
    ORDERS,
    PIPELINE_OUTERMOST,
    PLAIN_STRATEGIES,
    POLICIES,
    SYNC_COLUMNS,
    VOCABULARY,
    Candidates,
    ClusterSpec,
    ScheduleName,
    Strategy,
    TrainingSpec,
    has_shape,
    runs_by_chunk,
    splits_backward,
    strategies_of,
    sync_columns,
)
from shardwright.specs.model import ModelSpec

from . import refusals
from .fixed import Fixed
from .meshes import Degrees, context_exchanges, has_experts, meshes_of
from .software import Placement, activation_shares, optimizer_shares, placements, why_not_split
from .space import BY_CHUNK, SCHEDULES, SPLIT, Space
from .stage_sizes import divides_into_stages

# Of equally fast plans the search keeps the one whose schedule comes first.
SEARCHED: tuple[ScheduleName, ...] = (
    "1f1b",
    "interleaved-1f1b",
    *(name for name in SCHEDULES if name not in ("1f1b", "interleaved-1f1b")),
)
_SHARES_VOCABULARY = ("gpipe", "1f1b", "v-half")
"""The schedules for which it is known how many microbatches wait (costmodel/pipeline/in_flight.py): under GPipe none has to."""

_OFFLOADS = ("offload_optimizer", "offload_gradients", "offload_parameters", "offload_nvme", "delayed_update")
_APART = ("stages_per_rank", *_OFFLOADS[1:])
_COLUMNS = (*(choice.name for choice in COLUMNS if choice.name not in _APART), "microbatches", "stages_per_rank")
_PP, _MICROBATCHES, _ZERO = (_COLUMNS.index(name) for name in ("pp", "microbatches", "zero_stage"))

# At 8 stages on each rank the bubble is an eighth of that of 1F1B. More shorten it little, and each adds a message for
# every microbatch.
MAX_STAGES_PER_RANK = 8


def enumerate_space(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed | None = None
) -> Space:
    """Return every combination that divides model, batch and cluster, keeps the fixed choices, and that the optimizer can update.

    Raises:
        SpecError: a fixed choice is not searched, or contradicts another one, the model, the batch or the cluster; or
            nothing divides, or can be updated.
    """
    fixed = fixed or Fixed()
    try:
        space = _enumerated(model, cluster, training, fixed)
    except SpecError as reason:
        wider = refusals.limited_too_far(fixed, lambda choices: _enumerated(model, cluster, training, choices).column)
        raise (SpecError(wider) if wider else reason) from None
    updated = can_update(training.method, space.base)
    if not updated.any():
        raise SpecError(why_not_updated(training, space.base))
    return space if updated.all() else space.only(np.flatnonzero(updated[space.base_index]))


def _enumerated(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Space:
    check_fixed(model, cluster, training, fixed)
    meshes = list(meshes_of(model, cluster, training, fixed))
    if not meshes:
        if fixed.context_parallel == "ulysses-ring" or (fixed.ulysses_degree or 1) > 1:
            _enumerated(
                model, cluster, training, fixed.but(context_parallel=None, ulysses_degree=None)
            )  # or its reason
            raise SpecError(refusals.no_exchange(fixed.tp or 1, model, fixed))
        raise SpecError(refusals.no_mesh(model, cluster, training, fixed))
    rows = _rows(meshes, model, cluster, training, fixed)
    if not len(rows):
        if fixed.sync is not None and fixed.sync.approximate:
            _enumerated(model, cluster, training, fixed.but(sync=None))  # or its reason
            raise SpecError(refusals.no_replicas(training, fixed))
        if any(map(fixed.gives, _OFFLOADS)):
            _enumerated(model, cluster, training, fixed.but(**dict.fromkeys(_OFFLOADS, None)))  # or its reason
            raise SpecError(refusals.no_placement(training, fixed))
        raise SpecError(refusals.no_microbatch(meshes, training, fixed))
    entries = _entries(rows, model, training, fixed)
    if not len(entries.row):
        if fixed.vocabulary_parallel not in (None, "none"):
            _enumerated(model, cluster, training, fixed.but(vocabulary_parallel=None))  # or its reason
            raise SpecError(refusals.no_shared_vocabulary(fixed))
        raise SpecError(refusals.no_schedule(model, cluster, training, meshes, fixed))
    by_chunk = np.isin(entries.schedule, BY_CHUNK).astype(int)
    first, base_index = distinct([entries.row, entries.chunks, by_chunk])
    *chosen, sync = rows[entries.row[first]].T
    columns: dict[str, Array] = dict(zip(_COLUMNS, (*chosen, entries.chunks[first]), strict=True))
    columns["by_chunk"] = by_chunk[first]
    placed = np.array(_placements(cluster, training, fixed), dtype=float)[columns.pop("offload_optimizer")]
    columns |= dict(zip(_OFFLOADS, placed.T, strict=True))
    if fixed.sync or fixed.approximate:
        agreed = [sync_columns(one) for one in fixed.syncs]
        columns |= {name: np.array([one[name] for one in agreed])[sync] for name in SYNC_COLUMNS}
    base = Candidates(**columns)
    split = training.software.runs.split_backward.recompute
    strategies = _strategies(cluster, fixed)
    return Space(base, base_index, entries.schedule, entries.chunks, entries.vocabulary, fixed, split, strategies)


def _strategies(cluster: ClusterSpec, fixed: Fixed) -> tuple[Strategy, ...]:
    """Return what a layer may do: the plain strategies, and those that put activations on the host where that is asked for."""
    if fixed.stages is not None:
        return strategies_of(fixed.stages)
    if not cluster.node.device.has_own_memory:
        return PLAIN_STRATEGIES
    shares = [share for share in activation_shares(fixed) if share > 0 and fixed.allows("offload_activations", share)]
    policies = [policy for policy in POLICIES if fixed.allows("recompute", policy)]
    return (*PLAIN_STRATEGIES, *(Strategy(policy, share) for policy in policies for share in shares))


class _Entries(NamedTuple):
    """(N,) each: the row of an entry, the index of its schedule, its stages per rank, and who has the vocabulary."""

    row: IntArray
    schedule: IntArray
    chunks: IntArray
    vocabulary: IntArray


def _entries(rows: IntArray, model: ModelSpec, training: TrainingSpec, fixed: Fixed) -> _Entries:
    """Return every row with every schedule that can run it."""
    first, shape_of = distinct([rows[:, _PP], rows[:, _MICROBATCHES]])
    options = [
        [
            (schedule, chunks, vocabulary)
            for schedule, chunks in _schedules(int(pp), int(microbatches), model, training, fixed)
            for vocabulary in _vocabularies(int(pp), SCHEDULES[schedule], training, fixed)
        ]
        for pp, microbatches in rows[first][:, [_PP, _MICROBATCHES]]
    ]
    of_shape = np.array([len(some) for some in options])
    counts = of_shape[shape_of]
    row = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.repeat((np.cumsum(of_shape) - of_shape)[shape_of], counts)
    each = np.array([option for some in options for option in some], dtype=np.int64).reshape(-1, 3)[start + nth]
    if fixed.stages is None:
        zero_stages = training.software.runs.split_backward.zero_stages
        kept = ~np.isin(each[:, 0], SPLIT) | np.isin(rows[row, _ZERO], zero_stages) | (rows[row, _PP] == 1)
        # what it gathers and reduces once is none below ZeRO-2, and for one microbatch
        gains = (rows[row, _ZERO] >= 2) & (rows[row, _MICROBATCHES] > 1)
        kept &= gains | ~np.isin(each[:, 0], BY_CHUNK) | (fixed.schedule is not None)
        row, each = row[kept], each[kept]
    return _Entries(row, *each.T)


def _vocabularies(pp: int, schedule: ScheduleName, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Return the ways in which ranks may share the vocabulary. `vocab-1` is no faster than `vocab-2` and keeps more."""
    found = list(fixed.allowed("vocabulary_parallel", ("none", *training.software.runs.vocabulary_parallel)))
    if fixed.stages is None and (pp == 1 or schedule not in _SHARES_VOCABULARY):
        found = [name for name in found if name == "none"]
    return [VOCABULARY.index(name) for name in found if not (name == "vocab-1" and "vocab-2" in found)]


def _exchanges(
    tp: int, cp: int, sends_tokens: bool, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed
) -> list[tuple[int, int, int]]:
    """Return numbers: how cp exchanges keys and values, how many ranks trade heads, how ep sends tokens.

    Where the degree of an axis is 1, its exchange is one.
    """
    sends = training.software.runs.expert_dispatch or EXPERT_DISPATCH
    chosen = fixed.allowed("expert_dispatch", sends)
    if not sends_tokens:
        chosen = chosen[:1] or sends[:1]
    found = context_exchanges(model, cluster, training, fixed, tp, cp)
    return [(CONTEXT_PARALLEL.index(kind), d, EXPERT_DISPATCH.index(send)) for kind, d in found for send in chosen]


def _rows(
    meshes: list[Degrees], model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed
) -> IntArray:
    """(R, columns): base candidates without their chunks, with columns in the order of `_COLUMNS`, and last the index of how replicas
    agree (`Fixed.syncs`). That of the optimizer on the host indexes `_placements`.

    What a mesh leaves open depends on a few of its properties, so meshes share the arrays of it.
    """
    every = _placements(cluster, training, fixed)

    @cache
    def parts(dp: int, cp: int, shards: tuple[bool, bool, bool], replicas: bool, splits: bool) -> IntArray:
        sizes = _microbatches(dp, cp, training, fixed)
        found = [
            (zero, *size, index, agreed)
            for zero, size in product(_zero_stages(*shards, training, fixed), sizes)
            for index, placement in enumerate(every)
            if _can_be_placed(placement, zero, size[1], training, alone=shards[-1])
            for agreed, sync in enumerate(fixed.syncs)
            if not sync.approximate
            or (
                replicas
                and (zero or not splits)
                and not placement.optimizer
                and not why_not_agree(sync, training)
                and not loses_errors(sync, training)
            )
        ]
        return np.array(found, dtype=np.int64).reshape(-1, 5)

    @cache
    def exchanges(tp: int, cp: int, sends: bool) -> list[tuple[int, int, int]]:
        return _exchanges(tp, cp, sends, model, cluster, training, fixed)

    outer, inner = [], []
    for mesh in meshes:
        shards = (mesh.dp_shard == 1, mesh.shard_ranks > 1, mesh.data_ranks == 1)
        of_mesh = parts(mesh.dp, mesh.cp, shards, mesh.dp_replicate > 1, mesh.cp * mesh.ep > 1)
        for exchange in exchanges(mesh.tp, mesh.cp, mesh.ep > 1):
            outer.append((*mesh, *exchange))
            inner.append(of_mesh)
    if not outer:
        return np.zeros((0, len(_COLUMNS)), dtype=np.int64)
    each = np.repeat(np.array(outer), [len(of_mesh) for of_mesh in inner], axis=0)
    zero, micro_batch, microbatches, offload, sync = np.concatenate(inner).T
    degrees, tp = each[:, : len(Degrees._fields)], each[:, Degrees._fields.index("tp")]
    order = np.full(len(each), ORDERS.index(fixed.order or PIPELINE_OUTERMOST))
    sequence_parallel = (tp > 1) & (fixed.sequence_parallel is not False)
    columns = (
        order,
        micro_batch,
        zero,
        sequence_parallel,
        offload,
        *each[:, len(Degrees._fields) :].T,
        microbatches,
        sync,
    )
    return np.column_stack([degrees, *columns])


def check_fixed(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> None:
    """Check the fixed choices that can be checked before enumeration.

    Raises:
        SpecError: see `enumerate_space`.
    """
    check_sequence(model, training)
    check_layer_counts(model, training)
    check_trainable(model, training)
    check_sequence_chunks(model, training, cp=fixed.cp or 1, sequence_parallel=bool(fixed.sequence_parallel))
    ep, tp = fixed.ep or 1, fixed.tp or 1
    split = tp > 1 and fixed.sequence_parallel is not False
    left = 1 if fixed.ep is None and has_experts(model) else max(1, tp // ep)  # an open ep may leave each expert whole
    check_tensor_parallel(tp, model, training, sequence_parallel=split, expert_tp=fixed.etp or left)
    if fixed.etp and fixed.ep == 1:
        raise SpecError(f"etp {fixed.etp} splits the experts that ep spreads, and ep is 1; set ep, or leave etp out")
    if ep > 1 and tp > 1 and fixed.sequence_parallel is False:
        raise SpecError(
            f"ep {ep} with tp {tp} and no sequence_parallel would send every token {tp} times; leave out sequence_parallel"
        )
    check_expert_parallel(ep, fixed.etp or (left if fixed.ep else 1), model, training)
    cp = fixed.cp or 1
    kind = fixed.context_parallel or (training.software.runs.context_parallel or CONTEXT_PARALLEL)[0]
    in_rings = kind == "ulysses-ring" or (fixed.ulysses_degree or 1) > 1
    if fixed.cp and not context_exchanges(model, cluster, training, fixed, tp, fixed.cp):
        if not in_rings:  # say why of the first kind
            check_context_parallel(cp, tp, kind, model, training, sequence_parallel=split)
        raise SpecError(refusals.no_exchange(tp, model, fixed))
    moved = {
        "optimizer": "the optimizer",
        "activations": "activations",
        "gradients": "gradients",
        "parameters": "weights",
    }
    for name, what in moved.items():
        choice = f"offload_{name}"
        if not fixed.allows(choice, 0) and not cluster.node.device.has_own_memory:
            raise SpecError(
                f"{choice} {getattr(fixed, choice) or 1:g} moves {what} to the host, and a CPU device keeps {what.split()[-1]} there "
                "already; leave it out"
            )
    if fixed.delayed_update:
        _check_delayed(cluster, training, fixed)
    if training.activation_offload_layers and not fixed.allows("offload_activations", 0):
        raise SpecError(
            f"activation_offload_layers {training.activation_offload_layers} and offload_activations both move activations to the host; "
            "leave out one of them"
        )


def _check_delayed(cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> None:
    if not cluster.node.device.has_own_memory:
        raise SpecError("delayed_update is of the host's update, and a CPU device has no host beside it; leave it out")
    if not any(share > 0 for share in fixed.allowed("offload_optimizer", optimizer_shares(training, fixed))):
        raise SpecError(
            "delayed_update is of the host's update, and the whole optimizer stays on the device; leave it out, or set offload_optimizer to 1"
        )
    if not fixed.allows("offload_nvme", 0):
        raise SpecError(
            "delayed_update keeps parameters of two steps in the host's memory, not on drives; leave out offload_nvme"
        )


def _zero_stages(whole: bool, several_shards: bool, alone: bool, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Return those of a mesh: `whole` without dp_shard, `several_shards` of dp_shard and cp, `alone` with one data-parallel rank."""
    if fixed.zero_stage is not None:
        return [fixed.zero_stage]
    found = [*([0] if whole else []), *([1, 2, 3] if several_shards else [])]
    runs = training.software.runs.zero_stages
    return [s for s in found if (s in runs or alone) and fixed.allows("zero_stage", s)]


def _microbatches(dp: int, cp: int, training: TrainingSpec, fixed: Fixed) -> list[tuple[int, int]]:
    """Return each (sequences of a microbatch, microbatches of a step) of one data-parallel rank.

    Where cp cuts the sequences it is one, unless both are stated: two sequences over twice the ranks move more than one each.
    """
    sequences = training.global_batch // dp
    both = fixed.gives("cp") and fixed.gives("micro_batch")
    sizes = divisors(sequences) if cp == 1 or both else [1]
    return [(size, sequences // size) for size in sizes if fixed.allows("micro_batch", size)]


def _placements(cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[Placement]:
    """Return what may leave the device beside activations."""
    if cluster.node.device.has_own_memory or fixed.stages is not None:
        return placements(training, fixed)
    return [Placement(0)] if fixed.allows("offload_optimizer", 0) else []


def _can_be_placed(
    placement: Placement, zero_stage: int, microbatches: int, training: TrainingSpec, *, alone: bool
) -> bool:
    """Whether a plan may have it, and gains by it: `alone`, with one data-parallel rank, or with several."""
    if placement.gradients and not (alone and microbatches > 1):
        return False
    if placement.parameters and not training.trainable.trains_all:  # frozen weights stay where they are
        return False
    streams_below = 3 if training.software.runs.streams_shards else 1
    return alone or not placement.parameters or zero_stage < streams_below


def _schedules(
    pp: int, microbatches: int, model: ModelSpec, training: TrainingSpec, fixed: Fixed
) -> list[tuple[int, int]]:
    """Return each (index into `SCHEDULES`, stages per rank) that can run."""
    found = []
    runs = training.software.runs.schedules
    run = [name for name in SEARCHED if name in runs or (name == "1f1b" and pp == 1)]
    keeps_all = fixed.stages is not None or fixed.allows("offload_activations", 0)
    for name in fixed.allowed("schedule", run):
        index = SCHEDULES.index(name)
        if not keeps_all and name not in ("gpipe", "1f1b"):
            continue
        if name == "gpipe" and fixed.allows("schedule", "1f1b") and (pp == 1 or microbatches == 1):
            continue  # the same as 1f1b
        if fixed.stages is not None:
            if has_shape(name, pp, len(fixed.stages), microbatches):
                found.append((index, len(fixed.stages) // pp))
        elif splits_backward(name):
            if (pp > 1 or fixed.schedule) and why_not_split(name, model, training, fixed) is None:
                found += [(index, chunks) for chunks in (1, 2) if has_shape(name, pp, pp * chunks, microbatches)]
        elif name not in ("interleaved-1f1b", "breadth-first"):
            found.append((index, 1))
        elif pp > 1 and (microbatches % pp == 0 or runs_by_chunk(name)):
            most = (model.layer_count + 2) // pp  # with a layer each for embedding and head
            free = not fixed.gives("stages_per_rank") and not fixed.even_stages  # few sizes are even
            found += [
                (index, chunks)
                for chunks in range(2, most + 1)
                if not free or chunks <= MAX_STAGES_PER_RANK or model.layer_count % (pp * chunks) == 0
            ]
    if fixed.stages is None or fixed.even_stages:
        even, counts_ends = bool(fixed.even_stages), training.software.counts_ends
        found = [
            (index, chunks)
            for index, chunks in found
            if divides_into_stages(model.layer_count, pp, chunks, even=even, counts_ends=counts_ends)
        ]
    return [choice for choice in found if fixed.allows("stages_per_rank", choice[1])]
