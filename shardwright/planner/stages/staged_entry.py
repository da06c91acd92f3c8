"""One entry with given stages and mixes: whether they fit, and the step they take. For any schedule."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import alive_counts, split_counts, step_seconds, waiting_counts
from shardwright.costmodel.tables import RowCosts, rank_bytes, stage_seconds
from shardwright.planner.space import EntryCosts, LayerRanges
from shardwright.specs import by_rank, splits_backward


@dataclass(frozen=True)
class StagedPlan:
    """Layers of each stage (S,), their mixes (S, classes, policies), and their step."""

    layers: tuple[int, ...]
    mix: IntArray
    step_seconds: float


class Batch:
    """Partitions with their mixes, to be evaluated together."""

    def __init__(self) -> None:
        self.layers: list[tuple[int, ...]] = []
        self.mixes: list[IntArray] = []

    def add(self, layers: tuple[int, ...], mix: IntArray) -> None:
        self.layers.append(layers)
        self.mixes.append(mix)

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class StagedEntry:
    """The schedule says which stages are a rank's chunks; `counts` (chunks, classes) are the layers of a rank."""

    entry: EntryCosts
    ranges: LayerRanges

    @property
    def priced(self) -> list[RowCosts]:
        """The row costs of every kind of rank: one kind, but on a mixed cluster."""
        return [self.entry.rows]

    @cached_property
    def stages(self) -> IntArray:
        """(P, chunks): the stages of each rank."""
        return by_rank(self.entry.schedule, self.entry.pp, np.arange(self.entry.stages)).T

    @cached_property
    def alive(self) -> IntArray:
        """(P, moments, chunks): microbatches alive at once on each rank; waiting for their input gradient, where backwards are split."""
        return _same_length([each[:, 0] for each in self._moments])

    @cached_property
    def postponed(self) -> IntArray:
        """(P, moments, chunks): microbatches that wait for their weight gradient alone, at the moments of `alive`."""
        return _same_length([each[:, 1] for each in self._moments])

    @cached_property
    def _moments(self) -> tuple[IntArray, ...]:
        """For each rank (moments, 2, chunks), as in `split_counts`."""
        entry = self.entry
        shape = entry.schedule, entry.pp, entry.stages_per_rank, entry.microbatches
        if splits_backward(entry.schedule):
            return split_counts(*shape)
        return tuple(np.stack([counts, np.zeros_like(counts)], axis=1) for counts in alive_counts(*shape))

    @cached_property
    def waiting(self) -> IntArray:
        """(S,): microbatches that a stage keeps because the vocabulary is divided."""
        entry = self.entry
        return waiting_counts(entry.vocabulary, entry.schedule, entry.pp, entry.stages, entry.microbatches)

    def fits(self, rank: int, counts: IntArray, mixes: IntArray) -> Array:
        """(T,): whether mixes (T, chunks, classes, policies) of a rank fit device and host."""
        return np.asarray(self.each_fits(np.array([rank]), counts[None], mixes[None])[0])

    def each_fits(self, ranks: IntArray, counts: IntArray, mixes: IntArray) -> Array:
        """(D, T): the same of ranks (D,), each with its own `counts` (D, chunks, classes) and mixes (D, T, chunks, classes, policies)."""
        entry, rows, stages = self.entry, self.entry.rows, self.stages[ranks]
        of_chunks = entry.ends[stages]
        held, ends = counts.sum(axis=1)[:, None], of_chunks.sum(axis=1)[:, None]
        host = rows.host.total(held, ends)
        fits = (host <= entry.host_room_bytes) & (rows.nvme.total(held, ends) <= entry.nvme_room_bytes)
        kept = rows.activation.total(mixes, of_chunks[:, None])
        moments = kept @ np.swapaxes(self.alive[ranks], 1, 2)
        if splits_backward(entry.schedule):
            each = rows.postponed.total(counts, of_chunks)[..., None]
            moments = moments + np.swapaxes(self.postponed[ranks] @ each, 1, 2)
        waiting = (kept * self.waiting[stages][:, None]).sum(axis=-1)
        activations = moments.max(axis=-1) + waiting + rows.working.largest(mixes.sum(axis=2), ends)
        fits = fits & (rows.held(held, ends).peak_bytes(activations) <= entry.room_bytes)
        if rows.host_activation is not None:
            on_host = rows.host_activation.total(mixes, of_chunks[:, None])
            most = (on_host @ np.swapaxes(self.alive[ranks], 1, 2)).max(axis=-1)
            most = most + (on_host * self.waiting[stages][:, None]).sum(axis=-1)
            fits = fits & (host + most <= entry.host_room_bytes)
        return np.asarray(fits)

    def ranks_fit(self, mixes: IntArray) -> Array:
        """(B, P): whether the ranks of mixes (B, S, classes, policies) fit device and host."""
        entry = self.entry
        found = rank_bytes(entry.rows, entry.schedule, entry.pp, entry.microbatches, mixes, entry.vocabulary)
        on_host = (found.host <= entry.host_room_bytes) & (found.nvme <= entry.nvme_room_bytes)
        return np.asarray((found.device <= entry.room_bytes) & on_host)

    def best(self, mixed: Batch) -> StagedPlan | None:
        if not len(mixed):
            return None
        seconds = self.seconds(np.stack(mixed.mixes))
        best = int(np.argmin(seconds))
        return StagedPlan(mixed.layers[best], mixed.mixes[best], float(seconds[best]))

    def seconds(self, mixes: IntArray) -> Array:
        """(B,): the step in seconds of mixes (B, S, classes, policies)."""
        entry = self.entry
        seconds = stage_seconds(entry.rows, mixes.astype(float), entry.ends)
        costs = seconds.costs(entry.schedule, entry.pp, entry.sends)
        return step_seconds(entry.schedule, costs, entry.microbatches)

    def counts(self, layers: tuple[int, ...]) -> IntArray:
        """(S, classes): layers of each class on each stage."""
        return self.ranges.held(np.array(layers))

    def interleave(self, mixes_by_rank: list[IntArray]) -> IntArray:
        """(S, classes, policies): the mixes of all stages, from (chunks, classes, policies) of each rank."""
        found = np.empty((self.entry.stages, *mixes_by_rank[0].shape[1:]), dtype=np.int64)
        for stages, mixes in zip(self.stages, mixes_by_rank, strict=True):
            found[stages] = mixes
        return found


def _same_length(moments: list[IntArray]) -> IntArray:
    """(P, moments, chunks), from (moments, chunks) of each rank. Where a rank has fewer, its first repeats."""
    longest = max(len(each) for each in moments)
    return np.stack([np.concatenate([each, np.repeat(each[:1], longest - len(each), axis=0)]) for each in moments])
