"""torch's caching allocator, simulated: c10/cuda/CUDACachingAllocator.cpp.

Sizes go in steps of 512 bytes, segments are of 20 MiB for blocks below 10 MiB and in steps of 2 MiB above. The smallest free block
that fits serves a request, and a rest above 1 MiB is split off and joined again. Small blocks have a pool of their own and are left out.
"""

import bisect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

MIB = 2**20


@dataclass(eq=False)
class Block:
    """A piece of a segment, between its neighbours there."""

    size: int
    is_free: bool = False
    before: "Block | None" = None
    behind: "Block | None" = None


@dataclass
class Allocator:
    """Bytes `reserved` from the device, `allocated` of them in use, and the `most` of these."""

    reserved: int = 0
    allocated: int = 0
    most: int = 0
    _free: list[tuple[int, int, Block]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    def allocate(self, size: float) -> Block | None:
        """Return a block of at least `size` bytes; None for a small one, which is not counted."""
        rounded = -(-math.ceil(size) // 512) * 512
        if rounded <= MIB:
            return None
        place = bisect.bisect_left(self._free, (rounded, -1))
        block = self._free.pop(place)[2] if place < len(self._free) else self._segment(rounded)
        block.is_free = False
        if block.size - rounded > MIB:
            rest = Block(block.size - rounded, before=block, behind=block.behind)
            if block.behind:
                block.behind.before = rest
            block.size, block.behind = rounded, rest
            self._put(rest)
        self.allocated += block.size
        self.most = max(self.most, self.allocated)
        return block

    def free(self, block: Block | None) -> None:
        """Give `block` back and join it with free neighbours."""
        if block is None:
            return
        self.allocated -= block.size
        if block.before and block.before.is_free:
            block = self._joined(block.before, block)
        if block.behind and block.behind.is_free:
            block = self._joined(block, block.behind)
        self._put(block)

    @contextmanager
    def held(self, *sizes: float) -> Iterator[None]:
        """Hold blocks of `sizes` inside the context."""
        blocks = [self.allocate(size) for size in sizes]
        yield
        for block in blocks:
            self.free(block)

    def _segment(self, size: int) -> Block:
        taken = 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        self.reserved += taken
        return Block(taken)

    def _joined(self, first: Block, second: Block) -> Block:
        for each in (first, second):
            if each.is_free:
                self._free.remove(next(entry for entry in self._free if entry[2] is each))
                each.is_free = False
        first.size, first.behind = first.size + second.size, second.behind
        if second.behind:
            second.behind.before = first
        return first

    def _put(self, block: Block) -> None:
        block.is_free = True
        bisect.insort(self._free, (block.size, next(self._number), block))
