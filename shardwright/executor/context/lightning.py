"""Lightning attention over cp: a state between pieces that decays by a constant.

transformers' module (MiniMax) computes its recurrence in its own forward pass, and norms the outputs there. What the state before a piece
adds to them is added in front of that norm.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .pieces import SequencePieces, pieces_within, wrap


def is_lightning(module: nn.Module) -> bool:
    """Whether `module` is lightning attention as transformers writes it."""
    return {"qkv_proj", "output_gate", "norm"} <= dict(module.named_children()).keys() and hasattr(module, "slope_rate")


def lower_decays(layer: nn.Module, dtype: torch.dtype) -> None:
    """Let lightning attention decay in the format that it computes in. transformers multiplies its tables with queries, keys and scores, and
    the products with tensors in that format."""
    for module in layer.modules():
        if is_lightning(module):
            for name, table in module.named_buffers(recurse=False):
                setattr(module, name, table.to(dtype))


def divide_lightning(module: nn.Module, pieces: SequencePieces) -> None:
    """Let lightning attention work over pieces of the sequence."""
    projected: list[Tensor] = []
    module.get_submodule("qkv_proj").register_forward_hook(lambda _module, _given, output: projected.append(output))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it exchanges
    def norm(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        (hidden,) = given
        return forward(hidden + _added(module, projected.pop(), pieces).to(hidden.dtype), **options)

    wrap(module.get_submodule("norm"), norm)
    pieces_within(module, pieces)


def _added(module: Any, projected: Tensor, pieces: SequencePieces) -> Tensor:
    """Return what the state before each piece adds to its outputs, (count batch, tokens, heads x head size).

    `projected` (count batch, tokens, 3 heads x head size): queries, keys and values of each head, before their activation.
    """
    tokens, size = projected.shape[1], module.head_dim
    heads = module.act_fn(projected).reshape(len(projected), tokens, -1, 3 * size).transpose(1, 2)
    query, key, value = heads[..., :size], heads[..., size : 2 * size], heads[..., 2 * size :]
    rate, place = module.slope_rate.float(), torch.arange(tokens, device=projected.device)[:, None]
    end = (key * torch.exp(-rate * (tokens - 1 - place))).transpose(-1, -2) @ value.float()
    empty = torch.zeros_like(end[: len(end) // pieces.count])
    state = pieces.begins(end, empty, lambda done, before: before * torch.exp(-rate * tokens) + done)
    added: Tensor = (query * torch.exp(-rate * (place + 1))) @ state
    return added.transpose(1, 2).flatten(2)
