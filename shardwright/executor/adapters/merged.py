"""A frozen weight with its adapter in it."""

from torch import Tensor


def merged_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float, *, transposed: bool = False) -> Tensor:
    """Return W + s B A in the format of W, added in fp32 (peft/tuners/lora/layer.py, get_delta_weight).

    `weight`: (outputs, inputs), or (inputs, outputs) where it is `transposed`, as transformers' `Conv1D` holds it. `down`, `up`: A
    (rank, inputs) and B (outputs, rank) in PEFT's shapes. Stacked experts are a first dimension of all three.
    """
    delta = scale * (up.float() @ down.float())
    return (weight.float() + (delta.mT if transposed else delta)).to(weight.dtype)
