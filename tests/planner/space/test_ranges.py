"""The classes of layers that stages may hold, against every partition."""

from itertools import product

import numpy as np
import pytest

from shardwright.planner.space.ranges import _layer_ranges

_CLASSES = {"dense first": (0, 0, 0, 1, 1, 1, 1, 1), "in turn": (0, 1, 0, 1, 0, 1), "one": (0, 0, 0, 0, 0)}


@pytest.mark.parametrize("classes", _CLASSES.values(), ids=_CLASSES)
@pytest.mark.parametrize("sizes", [((1, 1, 1), (6, 6, 6)), ((2, 1, 0), (3, 2, 3)), ((1, 2, 2), (2, 3, 3))])
def test_classes_within_are_those_of_all_partitions(
    classes: tuple[int, ...], sizes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    fewest, most = (np.array(part) for part in sizes)
    ranges = _layer_ranges(classes)
    expected = np.zeros((len(fewest), max(classes) + 1), dtype=bool)
    for held in product(*(range(low, high + 1) for low, high in zip(*sizes, strict=True))):
        if sum(held) == len(classes):
            expected |= ranges.held(np.array(held)) > 0
    if expected.any():
        assert (ranges.classes_within(fewest, most) == expected).all()
