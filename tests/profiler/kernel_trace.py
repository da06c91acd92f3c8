"""Which kernels a piece of work runs, on what: two pieces of work that leave the same trace do the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Kernel = tuple[str, tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]]
# these make views, move nothing or name a part of a trace
_VIEWS = (
    "view",
    "t.",
    "transpose",
    "detach",
    "unsqueeze",
    "slice",
    "expand",
    "alias",
    "squeeze",
    "_unsafe_view",
    "profiler.",
)


class KernelTrace(TorchDispatchMode):
    """While active, lists each kernel's name and its tensors' (shape, strides, dtype), in order; views are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        name = str(function).removeprefix("aten.")
        if not name.startswith(_VIEWS):
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            self.kernels.append((name, tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)))
        return result


def kernels_of(work: Callable[[], object]) -> list[Kernel]:
    """Of one run."""
    trace = KernelTrace()
    with trace:
        work()
    return trace.kernels
