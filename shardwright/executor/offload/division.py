"""Which elements of a rank's shards leave the device."""

from collections.abc import Sequence

ALIGNED = 16
"""A part of a shard begins at a multiple of so many elements. torch's fused AdamW computes whole vectors of a CPU (16 floats with AVX-512)
otherwise than what is left over, so that other cuts change last bits."""


def aligned(elements: int) -> int:
    """Return the next multiple of `ALIGNED`."""
    return -(-elements // ALIGNED) * ALIGNED


def leading_parts(sizes: Sequence[int], wanted: int) -> list[int]:
    """Return how many leading elements of each shard are chosen: `wanted` in all, or up to `ALIGNED` - 1 less.

    `sizes`: elements of each shard, multiples of `ALIGNED`, in the order in which backward passes finish their gradients. Shards are chosen
    whole and evenly over that order, as every k-th of Deep Optimizer States (arXiv 2410.21316). Half of what is not chosen is kept
    for the last ones, whose update nothing would hide. One shard at most is cut, so that the sum is met.
    """
    total = sum(sizes)
    wanted = min(wanted, total)
    chosen = [0] * len(sizes)
    candidates = _before_the_tail(sizes, (total - wanted) // 2)
    share = wanted / max(1, sum(sizes[index] for index in candidates))
    taken = seen = 0
    for index in candidates:
        size = sizes[index]
        seen += size
        if taken + size / 2 <= share * seen and taken + size <= wanted:
            chosen[index] = size
            taken += size
    for index, size in enumerate(sizes):
        if not chosen[index]:
            part = min(size, wanted - taken)
            chosen[index] = part if part == size else part - part % ALIGNED
            taken += chosen[index]
    return chosen


def _before_the_tail(sizes: Sequence[int], most: int) -> range:
    """Return the indices before the longest tail of at most `most` elements."""
    end = len(sizes)
    while end and sizes[end - 1] <= most:
        most -= sizes[end - 1]
        end -= 1
    return range(end)
