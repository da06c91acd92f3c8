"""Conversion of the engine's parameters to Hugging Face's: equal names, and
another shape for GPT-2's fused projections."""

from collections.abc import Mapping

from torch import Tensor

_FUSED = (".c_attn.weight", ".c_attn.bias")


def hugging_face_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return full tensors by name, given as in an engine, in the shapes of the Hugging Face model's state dict.

    The engine holds GPT-2's fused projection of query, key and value as (hidden, 3, hidden), its bias as (3, hidden).
    """
    return {name: value.flatten(-2) if name.endswith(_FUSED) else value for name, value in state.items()}


def engine_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `hugging_face_state`."""
    return {
        name: value.reshape(*value.shape[:-1], 3, -1) if name.endswith(_FUSED) else value
        for name, value in state.items()
    }
