"""The number of layers that a stage may hold."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np

from shardwright.base import IntArray


class ChunkSizes(NamedTuple):
    """(P, chunks) each: fewest and most layers of chunk j on rank r, which is stage j * P + r."""

    fewest: IntArray
    most: IntArray


def divides_into_stages(layers: int, pp: int, chunks: int, *, even: bool, counts_ends: bool) -> bool:
    """Return whether `layers` fill `chunks` stages on each of `pp` ranks, of equal length where `even`.

    Of interleaved stages that are not even, few are a layer shorter: two, for embedding and head, or one in eight. A chunk
    that is shorter on some ranks only saves nothing, because every rank waits for its longest stage. With `counts_ends`
    (`Stack.counts_ends`) the embedding and the head may count as a layer each in interleaved stages: 126 layers then fill
    16 x 8 stages of one, of which the first and the last hold no layer.
    """
    stages = pp * chunks
    if counts_ends and chunks > 1 and (layers + 2) % stages == 0:
        return True
    if even or stages > layers:
        return layers % stages == 0
    return chunks == 1 or -layers % stages <= max(2, stages // 8)


@lru_cache(maxsize=1024)
def chunk_sizes(layers: int, pp: int, chunks: int, even: bool = False) -> ChunkSizes:
    """Return the allowed sizes of all stages, for layers that divide into them (`divides_into_stages`).

    One stage on a rank may hold any number of layers. Several hold nearly the even share, see `near_even_sizes`, because
    interleaving needs stages that take equally long. With `even` each stage holds the even share. Where only embedding
    and head make the layers divide, the first and the last stage hold one layer less, which may leave them none.
    """
    stages = pp * chunks
    if even or stages > layers:
        sizes = np.full((pp, chunks), -(-layers // stages))
        if layers % stages:
            sizes[0, 0] -= 1
            sizes[-1, -1] -= 1
        sizes.setflags(write=False)
        return ChunkSizes(sizes, sizes)
    if chunks == 1:
        return ChunkSizes(np.ones((pp, 1), dtype=np.int64), np.full((pp, 1), layers - pp + 1))
    share, less = -(-layers // stages), _less_at_ends(layers, stages)
    missing = share * stages - layers
    fewest = np.full((pp, chunks), share - (missing > 0))
    most = np.full((pp, chunks), share + (missing < min(_MOST_LESS_AT_ENDS, 2 * less)))
    most[0, 0] = most[-1, -1] = share
    fewest[0, 0] = fewest[-1, -1] = share - less
    fewest.setflags(write=False)
    most.setflags(write=False)
    return ChunkSizes(fewest, most)


# The first and the last stage, which also hold embedding and head, may hold this many layers less than the others.
_MOST_LESS_AT_ENDS = 2
# Up to this many ways, the stages between them that differ by a layer may be any; of more ways only those next to the ends.
_EVERYWHERE_UP_TO = 1200


@lru_cache(maxsize=1024)
def near_even_sizes(layers: int, pp: int, chunks: int, even: bool = False) -> IntArray:
    """Return the partitions (B, stages) of layers over interleaved stages that are searched.

    Every stage holds the even share q, rounded up, but for three things. The first and the last stage may hold up to two
    layers less. Stages between them hold one less to make up the sum, or one more where it is at most one layer short of the
    even share. They are any of these stages where that gives few ways, otherwise those next to the first and the last stage.
    """
    if even or pp * chunks > layers:
        return np.asarray(chunk_sizes(layers, pp, chunks, even).fewest.T.reshape(1, -1))
    stages = pp * chunks
    share = -(-layers // stages)
    missing = share * stages - layers
    found = []
    for first, last in product(range(_less_at_ends(layers, stages) + 1), repeat=2):
        spare = first + last - missing
        if spare > 0 and missing >= _MOST_LESS_AT_ENDS:
            continue
        for places in _places(stages, abs(spare)):
            sizes = np.full(stages, share)
            sizes[0] -= first
            sizes[-1] -= last
            sizes[list(places)] += 1 if spare > 0 else -1
            found.append(sizes)
    sizes = np.array(found)
    sizes.setflags(write=False)
    return sizes


def _less_at_ends(layers: int, stages: int) -> int:
    """Return how many layers less than the others the first and the last stage may hold."""
    return min(_MOST_LESS_AT_ENDS, -(-layers // stages) - 1)


def _places(stages: int, differ: int) -> Iterator[tuple[int, ...]]:
    """Yield the stages between first and last that may hold a layer more or less, `differ` of them."""
    between = range(1, stages - 1)
    if differ > len(between):
        return
    if comb(len(between), differ) <= _EVERYWHERE_UP_TO:
        yield from combinations(between, differ)
        return
    for early in range(differ + 1):
        yield (*between[:early], *between[len(between) - (differ - early) :])
