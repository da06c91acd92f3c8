"""From the engine's parameters to Hugging Face's: the same names, and for GPT-2's fused projections another shape."""

from collections.abc import Mapping

from torch import Tensor

_FUSED = (".c_attn.weight", ".c_attn.bias")


def hugging_face_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors by name, as an engine holds them, in the shapes of the Hugging Face model's state dict.

    The fused query, key and value projection of GPT-2 is kept as (hidden, 3, hidden), its bias as (3, hidden).
    """
    return {name: value.flatten(-2) if name.endswith(_FUSED) else value for name, value in state.items()}


def engine_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `hugging_face_state`."""
    return {
        name: value.reshape(*value.shape[:-1], 3, -1) if name.endswith(_FUSED) else value
        for name, value in state.items()
    }
