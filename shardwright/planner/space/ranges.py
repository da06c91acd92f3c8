"""Contiguous layers as counts: the number of layers of each class in each range of a model."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shardwright.base import IntArray
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class LayerRanges:
    """Ranges [start, end) of a model's layers. Ranges with equal counts of each layer class share a kind.

    Attributes:
        kind_of: [start, end], the kind of that range, -1 where it is empty.
        counts: [kinds, classes], layers of each class.
    """

    kind_of: IntArray
    counts: IntArray

    @property
    def layer_count(self) -> int:
        return len(self.kind_of) - 1

    @property
    def whole(self) -> IntArray:
        """[classes], layers of the whole model."""
        found: IntArray = self.counts[self.kind_of[0, -1]]
        return found

    @property
    def lengths(self) -> IntArray:
        """[kinds], layers in all."""
        total: IntArray = self.counts.sum(axis=1)
        return total

    def kinds(self, compositions: IntArray) -> IntArray:
        """Return the kinds [..., stages] of ranges that hold `compositions` [..., stages] layers, in their order."""
        ends = np.cumsum(compositions, axis=-1)
        found: IntArray = self.kind_of[ends - compositions, ends]
        return found

    def held(self, compositions: IntArray) -> IntArray:
        """Return the layers of each class [..., stages, classes] of the same ranges, some of which may be empty."""
        found: IntArray = np.where(compositions[..., None] > 0, self.counts[self.kinds(compositions)], 0)
        return found

    def classes_within(self, fewest: IntArray, most: IntArray) -> NDArray[np.bool_]:
        """[stages, classes]: the classes of which a stage may hold layers, where each holds from `fewest` to `most` [stages] layers."""
        layers = self.layer_count
        before, after = np.cumsum(fewest) - fewest, layers - (fewest.sum() - np.cumsum(fewest))
        start = np.maximum(before, layers - (most.sum() - np.cumsum(most) + most))
        end = np.minimum(after, np.cumsum(most))
        return np.where((end > start)[:, None], self.counts[self.kind_of[start, end]] > 0, False)


def layer_ranges(model: ModelSpec) -> LayerRanges:
    """Return all ranges of `model`. Only counts of classes matter: a uniform model has as many kinds as layers."""
    return _layer_ranges(model.class_of_layer)


@lru_cache(maxsize=16)
def _layer_ranges(class_of_layer: tuple[int, ...]) -> LayerRanges:
    classes = np.array(class_of_layer)
    is_class = classes[:, None] == np.arange(classes.max() + 1)
    before = np.concatenate([np.zeros((1, is_class.shape[1]), dtype=np.int64), np.cumsum(is_class, axis=0)])
    start, end = np.triu_indices(len(before), k=1)
    counts, kinds = np.unique(before[end] - before[start], axis=0, return_inverse=True)
    kind_of: NDArray[np.int64] = np.full((len(before), len(before)), -1)
    kind_of[start, end] = kinds.reshape(-1)
    return LayerRanges(kind_of, counts)
