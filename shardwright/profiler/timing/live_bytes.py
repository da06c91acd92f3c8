"""The tensor memory that a piece of work uses at once, found without allocating it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from .probe import Work


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """While active, sums the live storages that operations return; `peak` is the largest sum.

    Memory that a kernel allocates and frees internally is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.peak = 0.0
        self._storages: Any = WeakIdKeyDictionary()

    @property
    def now(self) -> float:
        """Bytes alive."""
        return float(sum(self._storages.values()))

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        given = [storage._cdata for storage in _storages(args, kwargs)]
        for storage in _storages(result):
            if storage._cdata not in given:  # a view of existing storage
                self._storages[storage] = storage.nbytes()
        self.peak = max(self.peak, self.now)
        return result


def _storages(*values: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True)
class Footprint:
    """`operands_bytes`: alive before the work. `working_bytes`: its own peak beside them, results included."""

    operands_bytes: float
    working_bytes: float


def footprint(make: Callable[[], Work]) -> Footprint:
    """Return the footprint of the work that `make` makes. On the meta device it takes neither memory nor time."""
    with LiveBytes() as live:
        work = make()
        operands_bytes, live.peak = live.now, 0.0
        result = work()
    del result
    return Footprint(operands_bytes, max(0.0, live.peak - operands_bytes))
