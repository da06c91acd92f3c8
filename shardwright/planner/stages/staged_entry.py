"""One entry with given stages and mixes: whether they fit, and what they take. For any schedule."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import StageCosts, alive_counts, step_seconds
from shardwright.planner.space import EntryCosts, LayerRanges


@dataclass(frozen=True)
class StagedPlan:
    """Layers of each stage (S,), their mixes (S, classes, policies), and the step that they take."""

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
    """Stage i = chunk i // P of rank i % P; `counts` (chunks, classes) are a rank's layers."""

    entry: EntryCosts
    ranges: LayerRanges

    @property
    def classes(self) -> int:
        return int(self.ranges.counts.shape[1])

    @cached_property
    def alive(self) -> tuple[IntArray, ...]:
        """For each rank (moments, chunks): microbatches alive at once."""
        return alive_counts(self.entry.schedule, self.entry.pp, self.entry.stages_per_rank, self.entry.microbatches)

    def fits(self, rank: int, counts: IntArray, mixes: IntArray) -> Array:
        """(T,): whether rank's mixes (T, chunks, classes, policies) fit device and host."""
        entry, rows, kinds = self.entry, self.entry.rows, self.classes
        ends = np.array([rank == 0, rank == entry.pp - 1], dtype=float)
        held = counts.sum(axis=0)

        def total(values: Array) -> float:
            return float(held @ values[:kinds] + ends @ values[kinds:])

        def largest(values: Array) -> float:
            return float(max(np.where(held > 0, values[:kinds], 0.0).max(), (ends * values[kinds:]).max()))

        static, room = total(rows.static), float(rows.room)
        if total(rows.host) > entry.host_room_bytes or static + total(rows.step) > room:
            return np.zeros(len(mixes), dtype=bool)
        kept = np.einsum("tckp,kp->tc", mixes, rows.activation[:kinds])
        kept[:, 0] += ends[0] * rows.activation[kinds, 0]
        kept[:, -1] += ends[1] * rows.activation[kinds + 1, 0]
        used = mixes.any(axis=1)
        working = np.where(used, rows.working[:kinds], 0.0).max(axis=(1, 2))
        working = np.maximum(working, (ends * rows.working[kinds:, 0]).max())
        moving = (kept @ self.alive[rank].T).max(axis=1) + working
        moving = moving + 2 * largest(rows.gather_window) + largest(rows.reduce_buffer)
        return np.asarray(static + (1 + float(rows.slack)) * moving <= room)

    def best(self, mixed: Batch) -> StagedPlan | None:
        if not len(mixed):
            return None
        seconds = self.seconds(np.array(mixed.layers), np.stack(mixed.mixes).astype(float))
        best = int(np.argmin(seconds))
        return StagedPlan(mixed.layers[best], mixed.mixes[best], float(seconds[best]))

    def seconds(self, layers: IntArray, mixes: Array) -> Array:
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

    def counts(self, layers: tuple[int, ...]) -> IntArray:
        """(S, classes): layers of each class on each stage."""
        found: IntArray = self.ranges.counts[self.ranges.kinds(np.array(layers))]
        return found

    def interleave(self, by_rank: list[IntArray]) -> IntArray:
        """(S, classes, policies) from each rank's (chunks, classes, policies)."""
        stacked = np.stack(by_rank, axis=1)
        return stacked.reshape(self.entry.stages, *stacked.shape[2:])
