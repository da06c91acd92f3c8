"""The number formats that the engine computes in."""

import torch

from shardwright.base import SpecError
from shardwright.specs import Precision

COMPUTE_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
GRADIENT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse formats that the engine cannot train in, and let fp32 matmuls use tensor cores for tf32.

    Raises:
        SpecError: fp16, whose gradients need loss scaling, or tf32 without a GPU.
    """
    if precision.compute not in COMPUTE_DTYPES:
        raise SpecError(
            f"compute precision {precision.compute} cannot be trained in yet (no loss scaling); give bf16 or fp32"
        )
    if precision.compute == "tf32" and device.type != "cuda":
        raise SpecError(f"compute precision tf32 needs a CUDA device, this is a {device.type}; give fp32")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision.compute == "tf32" else "highest")
