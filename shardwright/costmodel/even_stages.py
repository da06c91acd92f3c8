"""Layers over pipeline stages, as evenly as possible."""

from typing import NamedTuple

import numpy as np

from .candidates import IntArray
from .model import ModelSpec


def even_stages(layers: int, stages: int) -> list[int]:
    """Layers of each stage, as evenly as possible; the ends, which also hold embedding and head, get the fewer."""
    fewer, extra = divmod(layers, stages)
    middle_first = sorted(range(stages), key=lambda stage: abs(stage - (stages - 1) / 2))
    more = set(middle_first[:extra])
    return [fewer + (stage in more) for stage in range(stages)]


def even_row_counts(model: ModelSpec, stages: int) -> IntArray:
    """(stages, R): how many of each row of the cost tables every even stage holds, embedding and head included."""
    classes = len(model.layer_classes)
    counts = np.zeros((stages, classes + 2), dtype=np.int64)
    stage_of_layer = np.repeat(np.arange(stages), even_stages(model.layer_count, stages))
    np.add.at(counts, (stage_of_layer, np.array(model.class_of_layer)), 1)
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
