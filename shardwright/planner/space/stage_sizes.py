"""The number of layers that a stage may hold."""

from functools import lru_cache
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

    One stage on a rank may hold any number of layers. Several hold the even share or one layer more each; the first and
    the last stage may also hold one less. Longer and shorter interleaved stages are not in the space, because
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
    share = layers // stages
    fewest = np.full((pp, chunks), share)
    most = fewest + 1
    fewest[0, 0] = fewest[-1, -1] = max(1, share - 1)
    fewest.setflags(write=False)
    most.setflags(write=False)
    return ChunkSizes(fewest, most)
