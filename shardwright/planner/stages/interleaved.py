"""Several stages on a rank, interleaved or in a V: stages of nearly equal length, a recompute mix for each rank, and the
best of a family of partitions.

The stages of a rank share one memory, so their mixes depend on each other. The family spreads layers evenly over the
ranks by time, and within a rank evenly over its stages. Longer stages come early or late. Single layers then move
between stages for as long as that shortens the step.
"""

from itertools import combinations, product

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import ends_of
from shardwright.planner.space import EntryCosts, LayerRanges, chunk_sizes
from shardwright.specs import by_rank, by_stage

from .staged_entry import Batch, StagedEntry, StagedPlan
from .tables import mix_solver

_REBALANCED = 2
_IMPROVING_ROUNDS = 8
_MOST_STAGES_TO_IMPROVE = 24


class InterleavedSearch:
    """The family search of one entry.

    `counts` (chunks, classes) are the layers of a rank, (chunks, P) those of all ranks.
    """

    def __init__(self, entry: EntryCosts, ranges: LayerRanges, allowed: list[int]) -> None:
        self.entry, self.ranges, self.allowed = entry, ranges, allowed
        self.classes = ranges.counts.shape[1]
        sizes = chunk_sizes(ranges.layer_count, entry.pp, entry.stages_per_rank, entry.even_stages)
        self.fewest, self.most = (self._by_rank(each.T.reshape(-1)) for each in (sizes.fewest, sizes.most))
        self.staged = StagedEntry(entry, ranges)
        useful = mix_solver(entry, allowed).useful.any(axis=0)
        cost = entry.rows.backward.layers.sum(axis=0)
        self._useful = sorted(
            (int(policy) for policy in np.flatnonzero(useful)), key=lambda policy: float(cost[policy])
        )
        self._rank_mixes: dict[tuple[int, bytes], IntArray | None] = {}

    def family(self) -> StagedPlan | None:
        """Return the best of the even partitions, or None where none fits; a
        second round weighs ranks by their mixes."""
        seconds_per_layer = np.full(self.entry.pp, self._mean_layer_seconds())
        best: StagedPlan | None = None
        for _ in range(_REBALANCED):
            mixed = Batch()
            for early in (True, False):
                self._add_mixed(mixed, self._even_layers(seconds_per_layer, early=early))
            if not len(mixed):
                self._add_mixed(mixed, self._even_layers(seconds_per_layer, early=False, within_memory=True))
            found = self.staged.best(mixed)
            if found is None:
                return best
            if best is None or found.step_seconds < best.step_seconds:
                best = found
            seconds_per_layer = self._seconds_per_layer(found)
        return best

    def improved(self, plan: StagedPlan) -> StagedPlan:
        """Move single layers between stages for as long as that shortens the step."""
        if self.entry.stages > _MOST_STAGES_TO_IMPROVE:
            return plan
        for _ in range(_IMPROVING_ROUNDS):
            mixed = Batch()
            fewest, most = (by_stage(self.entry.schedule, each) for each in (self.fewest, self.most))
            for source, target in product(range(self.entry.stages), repeat=2):
                layers = list(plan.layers)
                layers[source] -= 1
                layers[target] += 1
                in_space = layers[source] >= fewest[source] and layers[target] <= most[target]
                if source != target and in_space:
                    self._add_mixed(mixed, tuple(layers))
            found = self.staged.best(mixed)
            if found is None or found.step_seconds >= plan.step_seconds:
                return plan
            plan = found
        return plan

    def _by_rank(self, per_stage: Array) -> Array:
        """(chunks, P) from (S,)."""
        return by_rank(self.entry.schedule, self.entry.pp, per_stage)

    def _even_layers(self, seconds_per_layer: Array, *, early: bool, within_memory: bool = False) -> tuple[int, ...]:
        """Return the layers of each stage: each layer goes to the rank, and there to the stage, with the least work so
        far.

        `within_memory`: skip ranks that a layer would overflow, as if all layers were of the commonest class.
        """
        pp, chunks = self.entry.pp, self.entry.stages_per_rank
        layers = self.fewest.copy()
        rows = self.entry.rows
        ends = self._by_rank(ends_of(self.entry.stages) @ (rows.forward.ends + rows.backward.ends))
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
        return tuple(by_stage(self.entry.schedule, layers).tolist())

    def _holds(self, rank: int, layers: IntArray) -> bool:
        counts = np.zeros((len(layers), self.classes), dtype=np.int64)
        counts[:, self.ranges.whole.argmax()] = layers
        return self._rank_mix(rank, counts) is not None

    def _mean_layer_seconds(self) -> float:
        rows, whole = self.entry.rows, self.ranges.whole
        each = rows.forward.layers + rows.backward.layers[:, self.allowed].min(axis=1)
        return float(whole @ each / whole.sum())

    def _seconds_per_layer(self, plan: StagedPlan) -> Array:
        """(P,): mean seconds of a layer on each rank with its mix."""
        rows = self.entry.rows
        of_layers = np.einsum("skp,kp->s", plan.mix, rows.forward.layers[:, None] + rows.backward.layers)
        held = self._by_rank(np.array(plan.layers)).sum(axis=0)
        return np.asarray(self._by_rank(of_layers).sum(axis=0) / held)

    def _add_mixed(self, mixed: Batch, layers: tuple[int, ...]) -> None:
        """Add the partition with each rank's cheapest mix, unless a rank has
        no mix that fits or layers are left over."""
        if sum(layers) != self.ranges.layer_count:
            return
        counts, chosen = self.staged.counts(layers), []
        for rank, stages in enumerate(self.staged.stages):
            mix = self._rank_mix(rank, counts[stages])
            if mix is None:
                return
            chosen.append(mix)
        mixed.add(layers, self.staged.interleave(chosen))

    def _rank_mix(self, rank: int, counts: IntArray) -> IntArray | None:
        key = (rank, counts.tobytes())
        if key not in self._rank_mixes:
            self._rank_mixes[key] = self._cheapest_rank_mix(rank, counts)
        return self._rank_mixes[key]

    def _cheapest_rank_mix(self, rank: int, counts: IntArray) -> IntArray | None:
        """Return the cheapest mix of two policies that fits; layers change policy
        first where most microbatches are alive."""
        cost = self.entry.rows.backward.layers
        best, least = None, np.inf
        pairs = [*combinations(self._useful, 2)] or [(self._useful[0], self._useful[0])]
        for first, second in pairs:
            mixes = self._changing(rank, counts, first, second)
            fits = np.flatnonzero(self.staged.fits(rank, counts, mixes))
            seconds = np.einsum("tckp,kp->t", mixes[fits], cost)
            if len(fits) and seconds.min() < least:
                best, least = mixes[fits[int(seconds.argmin())]], float(seconds.min())
        return best

    def _changing(self, rank: int, counts: IntArray, first: int, second: int) -> IntArray:
        """(T, chunks, classes, policies): mixes with 0, 1, ... layers changed from policy `first` to `second`."""
        cells = [
            (chunk, kind)
            for chunk in np.argsort(-self.staged.alive[rank].max(axis=0), kind="stable")
            for kind in range(self.classes)
            for _ in range(int(counts[chunk, kind]))
        ]
        start = np.zeros((*counts.shape, self.entry.rows.policies), dtype=np.int64)
        start[..., first] = counts
        changes = np.zeros((len(cells) + 1, *start.shape), dtype=np.int64)
        if first != second:
            for step, (chunk, kind) in enumerate(cells, start=1):
                changes[step, chunk, kind, first] -= 1
                changes[step, chunk, kind, second] += 1
        return np.asarray(start + np.cumsum(changes, axis=0))
