"""What the bounds of interleaved and breadth-first entries read from the shape of their pipelines alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Self

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import alive_counts, runs_of_chunk, warm_up_forwards
from shardwright.planner.space import SCHEDULES, ChunkSizes, chunk_sizes
from shardwright.specs import ScheduleName, runs_by_chunk


class _Ramp(NamedTuple):
    """(P, chunks): microbatches alive at a rank's fullest moment, and forwards before its first backward."""

    alive: IntArray
    before: IntArray


class OneChunk(NamedTuple):
    """(D, P) each: how often something counts for a layer on a chunk of the rank, and the fewest and most layers of the chunk."""

    counts: Array
    fewest: Array
    most: Array


@lru_cache(maxsize=4096)
def _ramp(name: ScheduleName, pp: int, chunks: int, microbatches: int) -> _Ramp:
    alive = [counts[counts.sum(axis=1).argmax()] for counts in alive_counts(name, pp, chunks, microbatches)]
    if runs_by_chunk(name):
        return _Ramp(np.stack(alive), np.full((pp, chunks), microbatches))
    forwards = np.array(
        [min(chunks * microbatches, 1 + warm_up_forwards(name, pp, chunks, microbatches, rank)) for rank in range(pp)]
    )
    return _Ramp(np.stack(alive), runs_of_chunk(forwards, pp, chunks))


@dataclass(frozen=True)
class ChunkedRanks:
    """D pipelines of P ranks that differ in schedule, stages on a rank or microbatches.

    Arrays are (D, P, C), of C stages on a rank, the rest of them empty where a pipeline has fewer, or (D, P, J), of J numbers of layers.
    """

    layers: int
    chunks: IntArray
    microbatches: IntArray
    sizes: ChunkSizes
    alive: IntArray
    before: IntArray

    @classmethod
    def of(cls, kinds: IntArray, pp: int, layers: int, *, even: bool) -> Self:
        """Of `kinds` (3, D): places in `SCHEDULES`, stages on a rank, and microbatches."""
        ramps = [_ramp(SCHEDULES[schedule], pp, chunks, count) for schedule, chunks, count in kinds.T.tolist()]
        sizes = [chunk_sizes(layers, pp, chunks, even) for chunks in kinds[1].tolist()]
        alive, before = (_filled(part) for part in zip(*ramps, strict=True))
        return cls(
            layers,
            chunks=kinds[1],
            microbatches=kinds[2],
            sizes=ChunkSizes(*(_filled(part) for part in zip(*sizes, strict=True))),
            alive=alive,
            before=before,
        )

    @cached_property
    def numbers(self) -> IntArray:
        """(D, P, J): the numbers of layers that a rank may hold; the last repeats where a rank has fewer choices."""
        fewest, most = (sizes.sum(axis=2)[:, :, None] for sizes in self.sizes)
        return np.asarray(np.minimum(fewest + np.arange(int((most - fewest).max()) + 1), most))

    @property
    def spare(self) -> IntArray:
        """(D, P, J): layers beyond the fewest that the rank's stages may hold."""
        return np.asarray(self.numbers - self.sizes.fewest.sum(axis=2)[:, :, None])

    @property
    def least_alive(self) -> Array:
        """(D, P): the fewest microbatches alive on one of a rank's stages at its fullest moment."""
        there = np.arange(self.alive.shape[2]) < self.chunks[:, None, None]
        return np.asarray(np.where(there, self.alive, np.inf).min(axis=2))

    @property
    def least_kept(self) -> Array:
        """(D, P, J): for how many microbatches a rank of N layers keeps single layers at its fullest moment, at least."""
        return np.asarray(
            (self.alive * self.sizes.fewest).sum(axis=2)[:, :, None] + self.spare * self.least_alive[:, :, None]
        )

    @property
    def alternates(self) -> Array:
        """(D, P): whether the last forward of a rank comes after its first backward."""
        return np.asarray(self.before.sum(axis=2) < (self.microbatches * self.chunks)[:, None])

    @property
    def first_rank_layers(self) -> Array:
        """(D,): the fewest layers of the first rank."""
        fewest, most = (sizes.sum(axis=2) for sizes in self.sizes)
        return np.asarray(np.maximum(fewest[:, 0], self.layers - most[:, 1:].sum(axis=1)))

    @property
    def layers_above(self) -> IntArray:
        """(D, P): the fewest layers on the first stages of the ranks above."""
        return self._fewest_outside(*(np.cumsum(sizes[:, :, 0], axis=1) - sizes[:, :, 0] for sizes in self.sizes))

    @property
    def layers_below(self) -> IntArray:
        """(D, P): the fewest layers on the last stages of the ranks below."""
        last = self.chunks[:, None, None] - 1
        ends = [np.take_along_axis(sizes, last, axis=2)[:, :, 0] for sizes in self.sizes]
        return self._fewest_outside(*(sizes.sum(axis=1, keepdims=True) - np.cumsum(sizes, axis=1) for sizes in ends))

    def _fewest_outside(self, fewest: IntArray, most: IntArray) -> IntArray:
        """Each stage holds its fewest layers, and all of them what the other stages cannot."""
        every = self.sizes.most.sum(axis=(1, 2))[:, None]
        return np.asarray(np.maximum(fewest, self.layers - (every - most)))

    @property
    def most_passes(self) -> Array:
        """(D, P, J): upper bound on the passes of single layers in a rank's first forwards: as many layers as may be are on the
        chunks that run most of them."""
        found = np.broadcast_to((self.before * self.sizes.fewest).sum(axis=2)[:, :, None], self.numbers.shape)
        left = self.spare
        for chunk in self.fullest_first(self.before):
            extra = np.minimum((chunk.most - chunk.fewest)[..., None], left)
            found, left = found + extra * chunk.counts[..., None], left - extra
        return found

    def fullest_first(self, counts: IntArray) -> Iterator[OneChunk]:
        """Yield a rank's chunks, those of the highest `counts` (D, P, C) first."""
        order = np.argsort(-counts, axis=2, kind="stable")
        ordered = (np.take_along_axis(each, order, axis=2).transpose(2, 0, 1) for each in (counts, *self.sizes))
        return (OneChunk(*parts) for parts in zip(*ordered, strict=True))


def _filled(parts: Sequence[IntArray]) -> IntArray:
    """(D, P, C): arrays (P, chunks) of each pipeline, with zeros for the stages that one has less than the most."""
    filled = np.zeros((len(parts), len(parts[0]), max(part.shape[1] for part in parts)), dtype=np.int64)
    for place, part in enumerate(parts):
        filled[place, :, : part.shape[1]] = part
    return filled
