"""Linear attention and Mamba-2 over cp: ranks pass on what their pieces of a sequence do to the state.

A piece does S -> M S + N to the state S of a head. Each rank computes its pieces from an empty state, all gather M and N, and each
chains those before its own (Sun et al. 2024, LASP-2, arXiv 2502.07563). What the state adds to the outputs is linear in it.
The convolution needs the last tokens of the piece before. Tokens stay where attention wants them (dealing.py): a rank
in zig-zag order has two pieces.

transformers' code stays as it is but for its recurrence. That is a function of its module, which gets another one during a forward pass;
the tokens before a piece come by the interface of its cache.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .lightning import divide_lightning, is_lightning
from .pieces import SequencePieces, pieces_within, wrap

_Rule = Callable[..., tuple[Tensor, Tensor | None]]


def divide_linear_attention(layer: nn.Module, pieces: SequencePieces) -> None:
    """Let recurrent modules of `layer` work over pieces of the sequence. Its other modules stay."""
    for module in list(layer.modules()):
        if is_lightning(module):
            divide_lightning(module, pieces)
        found = _recurrence(module)
        if found is not None:
            _work_in_pieces(module, pieces, *found)


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module computes a recurrence that can be passed on from piece to piece."""
    return _recurrence(module) is not None


def _recurrence(module: nn.Module) -> tuple[str, Callable[[_Rule, SequencePieces], _Rule]] | None:
    """Return the name of the function that computes the recurrence of a module, and what takes its place."""
    parts = dict(module.named_children())
    if "conv1d" not in parts or "A_log" not in dict(module.named_parameters(recurse=False)):
        return None
    place = sys.modules[type(module).__module__]
    return next((found for found in _KNOWN if hasattr(place, found[0])), None)


def _work_in_pieces(
    module: nn.Module, pieces: SequencePieces, name: str, instead: Callable[[_Rule, SequencePieces], _Rule]
) -> None:
    place = sys.modules[type(module).__module__]

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it exchanges, by a function in another's place
    def around(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        options = {**options, "cache_params": _TokensBefore(pieces)}
        with _in_place_of(place, name, instead(getattr(place, name), pieces)):
            return forward(*given, **options)

    pieces_within(module, pieces)
    wrap(module, around)


@contextlib.contextmanager
def _in_place_of(place: Any, name: str, function: Any) -> Iterator[None]:
    own = getattr(place, name)
    setattr(place, name, function)
    try:
        yield
    finally:
        setattr(place, name, own)


class _TokensBefore:
    """A cache, as transformers' recurrent modules ask it: it has no state, and the tokens before a convolution are of another piece."""

    def __init__(self, pieces: SequencePieces) -> None:
        self._pieces = pieces

    def get_conv_state(self, *_given: Any, **_options: Any) -> None:
        return None

    def get_recurrent_state(self, *_given: Any, **_options: Any) -> None:
        return None

    def update_conv_state(self, channels: Tensor, *_given: Any, conv_kernel_size: int, **_options: Any) -> Tensor:
        """Return (batch, channels, tokens) with the tokens before them, whose outputs the caller cuts off."""
        reach = conv_kernel_size - 1
        return torch.cat([self._pieces.before(channels[..., -reach:]), channels], -1) if reach else channels

    def update_recurrent_state(self, *_given: Any, **_options: Any) -> None:
        return None


def _delta_rule(rule: _Rule, pieces: SequencePieces) -> _Rule:
    """The gated delta rule, whose M is a matrix of (keys, keys).

    Beside the state of values runs one that begins as the identity and is given no values: it ends as M, and what queries read of it
    is what they would read of any state before the piece.
    """

    def over_pieces(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        keys, values, heads = key.shape[-1], value.shape[-1], value.shape[2]
        widened = torch.cat([value, value.new_zeros(*value.shape[:3], keys)], -1)
        options |= {"initial_state": _empty_beside_identity(value, heads, keys, values), "output_final_state": True}
        output, end = rule(query, key, widened, **options)
        assert end is not None, "it was asked for"
        own, reads = output[..., :values], output[..., values:]
        start = end.new_zeros(end.shape[0] // pieces.count, heads, keys, values)
        state = pieces.begins(end, start, lambda done, before: done[..., values:] @ before + done[..., :values])
        return own + torch.einsum("blhk,bhkv->blhv", reads.to(state.dtype), state).to(own.dtype), None

    return over_pieces


def _empty_beside_identity(value: Tensor, heads: int, keys: int, values: int) -> Tensor:
    """Return (batch, heads, keys, values + keys) in fp32."""
    identity = torch.eye(keys, dtype=torch.float32, device=value.device)
    both = torch.cat([identity.new_zeros(keys, values), identity], -1)
    return both.expand(value.shape[0], heads, keys, values + keys).contiguous()


def _state_space(rule: _Rule, pieces: SequencePieces) -> _Rule:
    """Mamba-2, whose M is one number a head: the decay over the piece."""

    def over_pieces(
        hidden: Tensor,
        step: Tensor,
        rates: Tensor,
        reads_in: Tensor,
        reads_out: Tensor,
        *given: Any,
        dt_bias: Tensor,
        dt_limit: tuple[float, float],
        **options: Any,
    ) -> tuple[Tensor, None]:
        options |= {"dt_bias": dt_bias, "dt_limit": dt_limit, "initial_states": None, "return_final_states": True}
        output, end = rule(hidden, step, rates, reads_in, reads_out, *given, **options)
        assert end is not None, "it was asked for"
        steps = nn.functional.softplus(step + dt_bias.to(step.dtype)).clamp(*dt_limit)
        decay = (steps.float() * rates).cumsum(1).exp()  # (batch, tokens, heads)
        done = torch.cat([end.float().flatten(2), decay[:, -1, :, None]], -1)
        empty = torch.zeros_like(done[: len(done) // pieces.count, ..., :-1])
        state = pieces.begins(done, empty, lambda of, before: of[..., -1:] * before + of[..., :-1])
        state = state.view(end.shape)
        queries = reads_out.float().repeat_interleave(hidden.shape[2] // reads_out.shape[2], dim=2)
        added = torch.einsum("blhn,bhpn->blhp", queries, state) * decay[..., None]
        return output + added.to(output.dtype), None

    return over_pieces


_KNOWN = (
    ("torch_chunk_gated_delta_rule", _delta_rule),
    ("mamba2_chunk_scan", _state_space),
)
"""Functions of transformers' modules, and what takes their place."""
