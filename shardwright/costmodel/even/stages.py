"""Layers over pipeline stages, as evenly as possible."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shardwright.base import IntArray
from shardwright.specs import even_stages


def even_row_counts(class_of_layer: Sequence[int], stages: int) -> IntArray:
    """(stages, R): how many of each row of the cost tables every even stage holds, embedding and head included."""
    classes = 1 + max(class_of_layer)
    counts = np.zeros((stages, classes + 2), dtype=np.int64)
    stage_of_layer = np.repeat(np.arange(stages), even_stages(len(class_of_layer), stages))
    np.add.at(counts, (stage_of_layer, np.array(class_of_layer)), 1)
    counts[0, classes] += 1
    counts[-1, classes + 1] += 1
    return counts


class Run(NamedTuple):
    """Neighbours that are alike: the first and the last of them."""

    first: int
    last: int


def alike(rows: IntArray) -> list[Run]:
    """The runs of equal neighbours along the first axis of `rows`, in order."""
    flat = rows.reshape(len(rows), -1)
    starts = np.flatnonzero(np.concatenate([[True], (flat[1:] != flat[:-1]).any(axis=1)]))
    ends = [*(starts[1:] - 1), len(rows) - 1]
    return [Run(int(first), int(last)) for first, last in zip(starts, ends, strict=True)]
