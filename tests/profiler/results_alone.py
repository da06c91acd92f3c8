"""Matmuls that compute nothing: a CPU without instructions of a format takes minutes for what only its memory is asked of."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_MATMULS = ("mm", "bmm", "addmm", "_scaled_mm")
_GROUPED = "_grouped_mm"
"""Without storage, torch's accepts bf16 alone."""


class ResultsAlone(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """While active, a matmul allocates its result, as it does on any device, and leaves it undefined."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's

    def __torch_dispatch__(
        self,
        function: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        run: Callable[..., object] = function
        name, one = function.overloadpacket.__name__, args[0]
        if name not in (*_MATMULS, _GROUPED):
            return run(*args, **(kwargs or {}))
        assert isinstance(one, torch.Tensor)

        def bare(tensor: torch.Tensor) -> torch.Tensor:
            grouped = name == _GROUPED and tensor.is_floating_point()
            return tensor.to("meta", torch.bfloat16 if grouped else tensor.dtype)

        given, options = tree_map_only(torch.Tensor, bare, (args, dict(kwargs or {})))
        result = run(*given, **options)
        assert isinstance(result, torch.Tensor)
        return torch.empty_like(result, device="cpu", dtype=one.dtype if name == _GROUPED else result.dtype)
