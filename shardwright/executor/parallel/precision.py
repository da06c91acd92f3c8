"""The number formats that the engine computes in, and the scale of the loss that fp16 needs."""

from typing import Self

import torch

from shardwright.base import SpecError
from shardwright.specs import NonNegativeInt, PositiveFloat, Precision, Spec

COMPUTE_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRADIENT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_GROWTH, _BACKOFF, _GROWTH_STEPS = 2.0, 0.5, 2000
_LARGEST = 2.0**96
"""Where growth ends: a loss times this is still a number in fp32."""
SMALLEST_SCALE = 1.0
"""A run whose loss must be scaled by less has diverged (DeepSpeed's `min_loss_scale`, documentation of its fp16 configuration)."""


class LossScale(Spec):
    """The factor of the loss under fp16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2), which lifts small gradients into the format's range.

    It changes as in torch.amp.GradScaler, whose constants these are: it starts at 2^16, is halved by gradients that are not finite, which
    are not applied, and doubled by 2,000 steps in a row without. `good_steps`: those since the last change. Being a power of two, it
    changes no digit of a gradient that fp16 can hold.
    """

    value: PositiveFloat = 2.0**16
    good_steps: NonNegativeInt = 0

    def after(self, *, finite: bool) -> Self:
        """Return the scale of the next step, after one whose gradients were `finite` or not."""
        if not finite:
            return self.model_copy(update={"value": self.value * _BACKOFF, "good_steps": 0})
        if self.good_steps + 1 < _GROWTH_STEPS:
            return self.model_copy(update={"good_steps": self.good_steps + 1})
        return self.model_copy(update={"value": min(self.value * _GROWTH, _LARGEST), "good_steps": 0})


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse formats that the engine cannot train in, and let fp32 matmuls use tensor cores for tf32.

    Raises:
        SpecError: tf32 without a GPU.
    """
    if precision.compute == "tf32" and device.type != "cuda":
        raise SpecError(f"compute precision tf32 needs a CUDA device, this is a {device.type}; give fp32")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision.compute == "tf32" else "highest")
