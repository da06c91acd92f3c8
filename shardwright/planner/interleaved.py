"""Interleaved 1F1B: stages of nearly equal length, recompute mixes for each rank, and the best of a family of partitions.

The ranks' stages share one memory, so mixes couple across stages. Where the partitions and mixes are few all of them are
evaluated. Else the family is: layers spread evenly over the ranks by time, within a rank evenly over its stages, the
longer stages early or late; then single layers move between stages for as long as that helps.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from shardwright.costmodel import constants
from shardwright.costmodel.candidates import IntArray
from shardwright.costmodel.in_flight import alive_counts
from shardwright.costmodel.op_times import Array
from shardwright.costmodel.pipeline import step_seconds
from shardwright.costmodel.stage_costs import StageCosts

from .chunk_sizes import chunk_sizes
from .layer_ranges import LayerRanges
from .space_costs import EntryCosts
from .stage_tables import mix_solver

_EVALUATE_ALL = 3000
_REBALANCED = 2
_IMPROVING_ROUNDS = 8
_MOST_STAGES_TO_IMPROVE = 24


@dataclass(frozen=True)
class InterleavedPlan:
    """Layers of each stage (S,), their mixes (S, classes, policies), and the step that they take."""

    layers: tuple[int, ...]
    mix: IntArray
    step_seconds: float


class _Mixed:
    """Partitions with their mixes, to be evaluated together."""

    def __init__(self) -> None:
        self.layers: list[tuple[int, ...]] = []
        self.mixes: list[IntArray] = []

    def add(self, layers: tuple[int, ...], mix: IntArray) -> None:
        self.layers.append(layers)
        self.mixes.append(mix)

    def __len__(self) -> int:
        return len(self.layers)


class InterleavedSearch:
    """One entry's search. Stage i = chunk i // P of rank i % P; `counts` (chunks, classes) are a rank's layers."""

    def __init__(self, entry: EntryCosts, ranges: LayerRanges, allowed: list[int]) -> None:
        self.entry, self.ranges, self.allowed = entry, ranges, allowed
        self.classes = ranges.counts.shape[1]
        sizes = chunk_sizes(ranges.layer_count, entry.pp, entry.stages_per_rank)
        self.fewest, self.most = sizes.fewest.T, sizes.most.T
        self.alive = alive_counts(entry.schedule, entry.pp, entry.stages_per_rank, entry.microbatches)
        useful = mix_solver(entry, self.classes, allowed).useful.any(axis=0)
        cost = entry.rows.backward[: self.classes].sum(axis=0)
        self._useful = sorted(
            (int(policy) for policy in np.flatnonzero(useful)), key=lambda policy: float(cost[policy])
        )
        self._rank_mixes: dict[tuple[int, bytes], IntArray | None] = {}

    # --- every partition and mix, where they are few ---

    def exhaustive(self) -> InterleavedPlan | None:
        """The best of all partitions and mixes; None where none fits. Only where they are `few`."""
        mixed = _Mixed()
        for layers in _all_sizes(self.ranges.layer_count, self.fewest.reshape(-1), self.most.reshape(-1)):
            counts = self._counts(layers)
            ranks = [self._all_rank_mixes(rank, counts[rank :: self.entry.pp]) for rank in range(self.entry.pp)]
            for choice in product(*ranks):
                mixed.add(layers, self._interleave(list(choice)))
        return self._best(mixed)

    @property
    def few(self) -> bool:
        """Whether all partitions and mixes are few enough to evaluate."""
        ways = 1.0
        spare = self.ranges.layer_count - int(self.fewest.sum())
        for placed in range(spare):
            ways *= (self.entry.stages + placed) / (placed + 1)
        return bool(ways * len(self.allowed) ** min(self.ranges.layer_count, 12) <= _EVALUATE_ALL)

    def _all_rank_mixes(self, rank: int, counts: IntArray) -> list[IntArray]:
        """Every mix (chunks, classes, policies) of a rank that fits."""
        per_cell = [_policy_splits(int(count), self.allowed, self.entry.rows.working.shape[1]) for count in counts.flat]
        shape = (*counts.shape, -1)
        mixes = [np.stack(choice).reshape(shape) for choice in product(*per_cell)]
        return [mix for mix in mixes if self._fits(rank, counts, mix[None])[0]]

    # --- the family ---

    def family(self) -> InterleavedPlan | None:
        """The best of the even partitions, improved by moving single layers."""
        seconds_per_layer = np.full(self.entry.pp, self._mean_layer_seconds())
        best: InterleavedPlan | None = None
        for _ in range(_REBALANCED):
            mixed = _Mixed()
            for early in (True, False):
                self._add_mixed(mixed, self._even_layers(seconds_per_layer, early=early))
            if not len(mixed):
                self._add_mixed(mixed, self._even_layers(seconds_per_layer, early=False, within_memory=True))
            found = self._best(mixed)
            if found is None:
                return best
            if best is None or found.step_seconds < best.step_seconds:
                best = found
            seconds_per_layer = self._seconds_per_layer(found)
        return best

    def improved(self, plan: InterleavedPlan) -> InterleavedPlan:
        """Move single layers between stages for as long as that shortens the step."""
        if self.entry.stages > _MOST_STAGES_TO_IMPROVE:
            return plan
        for _ in range(_IMPROVING_ROUNDS):
            mixed = _Mixed()
            fewest, most = self.fewest.reshape(-1), self.most.reshape(-1)
            for source, target in product(range(self.entry.stages), repeat=2):
                layers = list(plan.layers)
                layers[source] -= 1
                layers[target] += 1
                in_space = layers[source] >= fewest[source] and layers[target] <= most[target]
                if source != target and in_space:
                    self._add_mixed(mixed, tuple(layers))
            found = self._best(mixed)
            if found is None or found.step_seconds >= plan.step_seconds:
                return plan
            plan = found
        return plan

    def _even_layers(self, seconds_per_layer: Array, *, early: bool, within_memory: bool = False) -> tuple[int, ...]:
        """Layers of each stage: one at a time to the rank that is done first, there to the stage that is.

        `within_memory`: to no rank that it would overflow, as if all layers were of the commonest class.
        """
        pp, chunks = self.entry.pp, self.entry.stages_per_rank
        layers = self.fewest.copy()
        ends = np.zeros((chunks, pp))
        rows = self.entry.rows
        at_ends = rows.forward[self.classes :] + rows.backward[self.classes :, 0]
        ends[0, 0], ends[-1, -1] = at_ends
        closed = np.zeros(pp, dtype=bool)
        order = np.arange(chunks) if early else np.arange(chunks)[::-1]
        for _ in range(self.ranges.layer_count - int(layers.sum())):
            stage_seconds = np.where(layers < self.most, ends + layers * seconds_per_layer, np.inf)
            chunk_of = order[np.argmin(stage_seconds[order], axis=0)]
            full = np.isinf(stage_seconds).all(axis=0) | closed
            rank_seconds = (ends + layers * seconds_per_layer).sum(axis=0) + seconds_per_layer
            for rank in np.argsort(np.where(full, np.inf, rank_seconds), kind="stable"):
                layers[chunk_of[rank], rank] += 1
                if not within_memory or self._holds(int(rank), layers[:, rank]):
                    break
                layers[chunk_of[rank], rank] -= 1
                closed[rank] = True
        return tuple(layers.reshape(-1).tolist())

    def _holds(self, rank: int, layers: IntArray) -> bool:
        counts = np.zeros((len(layers), self.classes), dtype=np.int64)
        counts[:, self.ranges.counts[self.ranges.kind_of[0, -1]].argmax()] = layers
        return self._rank_mix(rank, counts) is not None

    def _mean_layer_seconds(self) -> float:
        rows, whole = self.entry.rows, self.ranges.counts[self.ranges.kind_of[0, -1]]
        each = rows.forward[: self.classes] + rows.backward[: self.classes][:, self.allowed].min(axis=1)
        return float(whole @ each / whole.sum())

    def _seconds_per_layer(self, plan: InterleavedPlan) -> Array:
        """(P,): what a layer takes on each rank with the mix that it has."""
        rows, chunks = self.entry.rows, (self.entry.stages_per_rank, self.entry.pp)
        of_layers = np.einsum("skp,kp->s", plan.mix, rows.forward[: self.classes, None] + rows.backward[: self.classes])
        held = np.array(plan.layers).reshape(chunks).sum(axis=0)
        return np.asarray(of_layers.reshape(chunks).sum(axis=0) / held)

    def _add_mixed(self, mixed: _Mixed, layers: tuple[int, ...]) -> None:
        """Add the partition with each rank's cheapest mix; nothing where a rank has none that fits, or layers are left."""
        if sum(layers) != self.ranges.layer_count:
            return
        counts, chosen = self._counts(layers), []
        for rank in range(self.entry.pp):
            mix = self._rank_mix(rank, counts[rank :: self.entry.pp])
            if mix is None:
                return
            chosen.append(mix)
        mixed.add(layers, self._interleave(chosen))

    def _rank_mix(self, rank: int, counts: IntArray) -> IntArray | None:
        key = (rank, counts.tobytes())
        if key not in self._rank_mixes:
            self._rank_mixes[key] = self._cheapest_rank_mix(rank, counts)
        return self._rank_mixes[key]

    def _cheapest_rank_mix(self, rank: int, counts: IntArray) -> IntArray | None:
        """Of the mixes of two policies, changing layer after layer where most microbatches are alive, the cheapest."""
        cost = self.entry.rows.backward[: self.classes]
        best, least = None, np.inf
        pairs = [*combinations(self._useful, 2)] or [(self._useful[0], self._useful[0])]
        for first, second in pairs:
            mixes = self._changing(rank, counts, first, second)
            fits = np.flatnonzero(self._fits(rank, counts, mixes))
            seconds = np.einsum("tckp,kp->t", mixes[fits], cost)
            if len(fits) and seconds.min() < least:
                best, least = mixes[fits[int(seconds.argmin())]], float(seconds.min())
        return best

    def _changing(self, rank: int, counts: IntArray, first: int, second: int) -> IntArray:
        """(T, chunks, classes, policies): 0, 1, ... layers changed from policy `first` to `second`."""
        cells = [
            (chunk, kind)
            for chunk in np.argsort(-self.alive[rank].max(axis=0), kind="stable")
            for kind in range(self.classes)
            for _ in range(int(counts[chunk, kind]))
        ]
        start = np.zeros((*counts.shape, self.entry.rows.working.shape[1]), dtype=np.int64)
        start[..., first] = counts
        changes = np.zeros((len(cells) + 1, *start.shape), dtype=np.int64)
        if first != second:
            for step, (chunk, kind) in enumerate(cells, start=1):
                changes[step, chunk, kind, first] -= 1
                changes[step, chunk, kind, second] += 1
        return np.asarray(start + np.cumsum(changes, axis=0))

    # --- memory and time ---

    def _fits(self, rank: int, counts: IntArray, mixes: IntArray) -> Array:
        """(T,): whether rank's mixes (T, chunks, classes, policies) fit device and host."""
        entry, rows, kinds = self.entry, self.entry.rows, self.classes
        ends = np.array([rank == 0, rank == entry.pp - 1], dtype=float)
        held = counts.sum(axis=0)

        def total(values: Array) -> float:
            return float(held @ values[:kinds] + ends @ values[kinds:])

        def largest(values: Array) -> float:
            return float(max(np.where(held > 0, values[:kinds], 0.0).max(), (ends * values[kinds:]).max()))

        if total(rows.host) > entry.host_room_bytes:
            return np.zeros(len(mixes), dtype=bool)
        kept = np.einsum("tckp,kp->tc", mixes, rows.activation[:kinds])
        kept[:, 0] += ends[0] * rows.activation[kinds, 0]
        kept[:, -1] += ends[1] * rows.activation[kinds + 1, 0]
        used = mixes.any(axis=1)
        working = np.where(used, rows.working[:kinds], 0.0).max(axis=(1, 2))
        working = np.maximum(working, (ends * rows.working[kinds:, 0]).max())
        moving = (kept @ self.alive[rank].T).max(axis=1) + working
        moving = moving + 2 * largest(rows.gather_window) + largest(rows.reduce_buffer)
        return np.asarray(total(rows.static) + (1 + constants.ALLOCATOR_SLACK.value) * moving <= float(rows.room))

    def _best(self, mixed: _Mixed) -> InterleavedPlan | None:
        if not len(mixed):
            return None
        seconds = self._seconds(np.array(mixed.layers), np.stack(mixed.mixes).astype(float))
        best = int(np.argmin(seconds))
        return InterleavedPlan(mixed.layers[best], mixed.mixes[best], float(seconds[best]))

    def _seconds(self, layers: IntArray, mixes: Array) -> Array:
        """(B,): the step of partitions (B, S) with mixes (B, S, classes, policies)."""
        entry, rows, kinds = self.entry, self.entry.rows, self.classes
        counts = self.ranges.counts[self.ranges.kinds(layers)]

        def of_rows(values: Array) -> Array:
            stages = counts @ values[:kinds]
            stages[:, 0] += values[kinds]
            stages[:, -1] += values[kinds + 1]
            return np.asarray(stages)

        def of_mixes(values: Array) -> Array:
            stages = np.einsum("bskp,kp->bs", mixes, values[:kinds])
            stages[:, 0] += values[kinds, 0]
            stages[:, -1] += values[kinds + 1, 0]
            return np.asarray(stages)

        by_rank = of_rows(rows.optimizer).reshape(len(layers), entry.stages_per_rank, entry.pp)
        costs = StageCosts(
            pp=entry.pp,
            forward=of_rows(rows.forward),
            backward=of_mixes(rows.backward),
            first_forward_extra=of_rows(rows.first_forward),
            send=np.full(entry.stages - 1, float(rows.send)),
            reduce_tail=of_mixes(rows.last_backward),
            optimizer=by_rank.sum(axis=1),
        )
        return step_seconds(entry.schedule, costs, entry.microbatches)

    def _counts(self, layers: tuple[int, ...]) -> IntArray:
        """(S, classes): layers of each class on each stage."""
        found: IntArray = self.ranges.counts[self.ranges.kinds(np.array(layers))]
        return found

    def _interleave(self, by_rank: list[IntArray]) -> IntArray:
        """(S, classes, policies) from each rank's (chunks, classes, policies)."""
        stacked = np.stack(by_rank, axis=1)
        return stacked.reshape(self.entry.stages, *stacked.shape[2:])


def _all_sizes(layers: int, fewest: IntArray, most: IntArray) -> list[tuple[int, ...]]:
    """Every way to give `layers` to stages that hold from `fewest` (S,) to `most` (S,) each."""
    partial: list[tuple[int, ...]] = [()]
    for stage in range(len(fewest)):
        least_after, most_after = int(fewest[stage + 1 :].sum()), int(most[stage + 1 :].sum())
        partial = [
            (*sizes, size)
            for sizes in partial
            for size in range(int(fewest[stage]), int(most[stage]) + 1)
            if least_after <= layers - sum(sizes) - size <= most_after
        ]
    return partial


def _policy_splits(count: int, allowed: list[int], policies: int) -> list[IntArray]:
    """Every way to put `count` layers under the allowed policies, as counts (policies,)."""
    found = []
    for split in product(range(count + 1), repeat=len(allowed)):
        if sum(split) == count:
            mix = np.zeros(policies, dtype=np.int64)
            mix[allowed] = split
            found.append(mix)
    return found
