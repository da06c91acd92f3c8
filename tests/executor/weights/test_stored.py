from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardwright.executor.weights.nodes import Held, Pieces, Region
from shardwright.executor.weights.stored import StoredTensor, elements


class Counted(Held):
    """A tensor that notes how many elements are read of it."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        object.__setattr__(self, "read_elements", [])

    def read(self, region: Region) -> Tensor:
        found = super().read(region)
        noted: list[int] = self.__dict__["read_elements"]
        noted.append(found.numel())
        return found


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda t: t[1:3],
    "columns": lambda t: t[..., 1:3],
    "one row": lambda t: t[1],
    "transposed": lambda t: t.transpose(0, -1).contiguous(),
    "stacked": lambda t: torch.stack([t, t + 0], dim=1),
    "joined": lambda t: torch.cat([t, t[:1], t]),
    "chunks in another order": lambda t: torch.cat(torch.chunk(t, 2, dim=0)[::-1]),
    "split": lambda t: torch.cat(list(torch.split(t, 3))[::-1]),
    "rows unstacked": lambda t: torch.stack(t.unbind(0)[::-1]),
    "first dimension in two": lambda t: t.reshape(2, -1, *t.shape[1:]) if t.shape[0] % 2 == 0 else t,
    "first dimensions in one": lambda t: t.flatten(0, 1) if t.dim() > 1 else t,
    "all in one": lambda t: t.reshape(-1),
    "one more": lambda t: t.unsqueeze(1),
    "one less": lambda t: t.squeeze(1) if t.dim() > 1 else t,
    "other type": lambda t: t.to(torch.float64),
    "computed": lambda t: t * 2,
    "across dimensions": lambda t: t.reshape(t.shape[-1], -1),
}


@settings(deadline=None)
@example(names=["all in one", "across dimensions"], data=None)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=4), data=st.data())
def test_any_region_of_changed_tensors_is_that_of_the_changed_elements(names: list[str], data: Any) -> None:
    """A StoredTensor is the tensor, only later."""
    expected = torch.arange(48.0).reshape(4, 2, 6)
    own: Tensor = StoredTensor(Held(expected))
    with torch.no_grad():
        for name in names:
            if expected.dim() and expected.numel() and expected.shape[0] >= 3:
                expected, own = CHANGES[name](expected), CHANGES[name](own)
    assert isinstance(own, StoredTensor)
    assert (own.shape, own.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(own.read(), expected)
    if data is None:
        return
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in expected.shape]
    region = tuple(slice(low, high) for low, high in bounds)
    assert torch.equal(elements(own, region), expected[region])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: torch.stack([t[2 * index : 2 * index + 2] for index in range(4)]).view(4, 2, 1, 6).flatten(1, 2),
        lambda t: torch.cat([t.T.contiguous()[:3], t.T.contiguous()[3:]]).view(2, 3, 8).flatten(0, 1).T,
    ],
)
def test_only_the_region_is_read(change: Callable[[Tensor], Tensor]) -> None:
    source = Counted(torch.arange(48.0).view(8, 6))
    with torch.no_grad():
        changed = change(StoredTensor(source))
    assert source.__dict__["read_elements"] == []
    part = elements(changed, tuple(slice(0, 1) for _ in changed.shape))
    assert sum(source.__dict__["read_elements"]) == part.numel() == 1


@settings(deadline=None)
@given(row=st.integers(1, 3), column=st.integers(1, 5), data=st.data())
def test_a_tensor_in_pieces_is_whole(row: int, column: int, data: Any) -> None:
    whole = torch.arange(24.0).view(4, 6)
    pieces = [
        ((top, left), Held(whole[top:bottom, left:right]))
        for top, bottom in ((0, row), (row, 4))
        for left, right in ((0, column), (column, 6))
    ]
    own = Pieces((4, 6), pieces)
    rows, columns = (sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in (4, 6))
    region = (slice(*rows), slice(*columns))
    assert torch.equal(own.read(region), whole[region])


def test_parts_that_do_not_fit_are_refused() -> None:
    first, second = StoredTensor(Held(torch.zeros(2, 3))), StoredTensor(Held(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="cannot be joined"):
        torch.cat([first, second])
    with pytest.raises(ValueError, match="cannot be stacked"):
        torch.stack([first, second])
