"""torch's caching allocator, simulated: blocks by hand, and what sequences of many lengths do to it."""

import random

from shardwright.calibration.allocator.caching import MIB, Allocator
from shardwright.calibration.allocator.ragged_lengths import LENGTHS, Shape, run_step, slack

SMALL = Shape(hidden=4096, inner=11008, vocabulary=32000, layers=2)


def test_a_longer_block_than_all_before_takes_new_memory() -> None:
    memory = Allocator()
    memory.free(memory.allocate(12 * MIB))
    memory.free(memory.allocate(11 * MIB))
    assert memory.reserved == 12 * MIB
    memory.free(memory.allocate(14 * MIB))
    assert memory.reserved == (12 + 14) * MIB
    assert memory.most == 14 * MIB


def test_pieces_of_a_segment_are_split_off_and_joined_again() -> None:
    """Two blocks of 6 MiB share a segment of 20 MiB; when both are free it holds 18 MiB in one piece."""
    memory = Allocator()
    first, second = memory.allocate(6 * MIB), memory.allocate(6 * MIB)
    assert memory.reserved == 20 * MIB
    memory.free(first)
    memory.free(second)
    whole = memory.allocate(18 * MIB)
    assert memory.reserved == 20 * MIB
    assert whole is not None
    assert memory.allocated == 18 * MIB


def test_sizes_are_rounded_and_small_blocks_left_out() -> None:
    memory = Allocator()
    assert memory.allocate(MIB) is None
    with memory.held(11 * MIB + 1):
        assert memory.reserved == 12 * MIB
        assert memory.allocated == 12 * MIB  # a rest of less than 1 MiB stays with its block


def test_equal_lengths_reserve_nothing_more_after_the_second_step() -> None:
    memory = Allocator()
    run_step(memory, SMALL, 1024)
    run_step(memory, SMALL, 1024)
    reserved = memory.reserved
    for _ in range(3):
        run_step(memory, SMALL, 1024)
    assert memory.reserved == reserved
    assert memory.allocated == 0


def test_growing_lengths_reserve_more_than_falling_ones() -> None:
    assert slack(SMALL, lambda source: 1024, seed=0, steps=4) == 0
    lengths = random.Random(0).sample(range(64, 2048), 12)
    growing, falling = iter(sorted(lengths)), iter(sorted(lengths, reverse=True))
    assert slack(SMALL, lambda source: next(growing), 0, 12) > 0.5 + slack(SMALL, lambda source: next(falling), 0, 12)
    assert set(LENGTHS["uniform from 64 to 2048"](random.Random(seed)) <= 2048 for seed in range(9)) == {True}
