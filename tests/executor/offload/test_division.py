from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.executor.offload.division import ALIGNED, leading_parts
from shardwright.executor.offload.placement import Room, place, streamed_layers
from shardwright.executor.offload.rule import Part, UpdateRule
from shardwright.specs.plan import Offload

SIZES = st.lists(st.integers(0, 40).map(lambda count: count * ALIGNED), min_size=1, max_size=30)


class TestLeadingParts:
    @given(SIZES, st.floats(0, 1))
    def test_the_sum_is_met(self, sizes: list[int], share: float) -> None:
        wanted = int(share * sum(sizes))
        parts = leading_parts(sizes, wanted)
        assert wanted - ALIGNED < sum(parts) <= wanted
        assert all(0 <= part <= size and part % ALIGNED == 0 for part, size in zip(parts, sizes, strict=True))

    @given(SIZES, st.floats(0, 1))
    def test_one_shard_at_most_is_cut(self, sizes: list[int], share: float) -> None:
        parts = leading_parts(sizes, int(share * sum(sizes)))
        assert sum(0 < part < size for part, size in zip(parts, sizes, strict=True)) <= 1

    def test_half_of_equal_shards_is_every_second_and_the_last_stay(self) -> None:
        parts = leading_parts([16] * 16, 8 * 16)
        assert [part > 0 for part in parts] == [
            *(True, False, True, True, False, True, True, False, True, True, False, True),
            *[False] * 4,
        ]

    def test_all_and_nothing(self) -> None:
        assert leading_parts([16, 32], 48) == [16, 32]
        assert leading_parts([16, 32], 0) == [0, 0]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(4, 1, [True] * 4), (4, 0.5, [False, True] * 2), (3, 0.5, [False, True, False]), (4, 0, [False] * 4)],
)
def test_streamed_layers_are_spread(count: int, fraction: float, expected: list[bool]) -> None:
    assert streamed_layers(count, fraction) == expected


class TestCuts:
    """Why parts begin at multiples of `ALIGNED`."""

    @staticmethod
    def updated(cuts: list[int]) -> torch.Tensor:
        generator, rule = torch.Generator().manual_seed(0), UpdateRule("adamw")
        values, gradient = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
        first, second = torch.zeros(1000), torch.zeros(1000)
        for step in range(1, 6):
            for low, high in zip([0, *cuts], [*cuts, 1000], strict=True):
                states = (first[low:high], second[low:high])
                rule.apply([Part(values[low:high], gradient[low:high], states, step, 0.1)], 1e-3)
        return values

    def test_parts_that_begin_there_get_the_bits_of_the_whole(self) -> None:
        assert torch.equal(self.updated([ALIGNED, 5 * ALIGNED]), self.updated([]))
        optimizer = torch.optim.AdamW(
            [whole := torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))],
            lr=1e-3,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            fused=True,
        )
        generator = torch.Generator().manual_seed(0)
        torch.randn(1000, generator=generator)
        whole.grad = torch.randn(1000, generator=generator)
        for _ in range(5):
            optimizer.step()
        assert torch.equal(whole, self.updated([7 * ALIGNED]))


@pytest.mark.parametrize(("delayed", "each"), [(False, 16), (True, 20)])
def test_what_has_no_room_on_the_host_stays(delayed: bool, each: int) -> None:
    """Of an element the host holds gradient, parameter and two moments, and of a delayed update the parameter that passes read."""
    shards: list[Any] = [SimpleNamespace(elements=1600) for _ in range(4)]
    offload = Offload(optimizer_fraction=1, delayed_update=delayed)
    room = Room(host_bytes=3200 * each, nvme_bytes=0)
    placement = place(shards, offload, "adamw", room, sums=False)
    assert sum(piece.stop - piece.start for piece in placement.in_memory) == 3200
