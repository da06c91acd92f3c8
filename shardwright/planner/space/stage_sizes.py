"""The number of layers that a stage may hold."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shardwright.base import IntArray


class ChunkSizes(NamedTuple):
    """(P, chunks) each: fewest and most layers of chunk j on rank r, which is stage j * P + r."""

    fewest: IntArray
    most: IntArray


@lru_cache(maxsize=1024)
def chunk_sizes(layers: int, pp: int, chunks: int, even: bool = False) -> ChunkSizes:
    """Return the allowed sizes of all stages.

    One stage on a rank may hold any number of layers. Several hold the even share or one layer more each; the first and
    the last stage may also hold one less. Longer and shorter interleaved stages are not in the space, because
    interleaving needs stages that take equally long. With `even`, which must divide the layers, each stage holds the
    even share.
    """
    if even:
        share_of_each = np.full((pp, chunks), layers // (pp * chunks))
        share_of_each.setflags(write=False)
        return ChunkSizes(share_of_each, share_of_each)
    if chunks == 1:
        return ChunkSizes(np.ones((pp, 1), dtype=np.int64), np.full((pp, 1), layers - pp + 1))
    share = layers // (pp * chunks)
    fewest = np.full((pp, chunks), share)
    most = fewest + 1
    fewest[0, 0] = fewest[-1, -1] = max(1, share - 1)
    fewest.setflags(write=False)
    most.setflags(write=False)
    return ChunkSizes(fewest, most)
