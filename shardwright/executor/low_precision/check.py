"""Where linears in 8 bits run."""

import torch

from shardwright.base import SpecError
from shardwright.specs import Precision

_FIRST_CAPABILITY = (8, 9)
"""The first compute capability with 8-bit floats in tensor cores, Ada's (PyTorch, aten/src/ATen/native/cuda/ScaledBlas.cpp, which refuses
_scaled_mm below 8.9)."""


def check_linear_precision(precision: Precision, device: torch.device) -> None:
    """Check that the device has matmuls in the plan's format. CPUs have them, slow ones, so that plans are tried there.

    Raises:
        SpecError: it has none.
    """
    if precision.linear is None or device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < _FIRST_CAPABILITY:
        has, needs = (".".join(map(str, pair)) for pair in (found, _FIRST_CAPABILITY))
        raise SpecError(
            f"linears in {precision.linear} need a GPU of compute capability {needs}, this one has {has}; plan without --linear-precision"
        )
