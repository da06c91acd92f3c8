"""The number formats of a profile, in torch's terms."""

import torch
from torch import Tensor

from shardwright.specs import Format

from .probe import UnavailableError, Work

_DTYPE_NAMES: dict[Format, str] = {
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
}
BYTES: dict[Format, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""Bytes of one element."""


def torch_dtype(number_format: Format, device: torch.device) -> torch.dtype:
    """Return the dtype of tensors of `number_format` on `device`.

    Raises:
        UnavailableError: this torch lacks it, or the device does (tf32 exists on CUDA devices only).
    """
    if number_format == "tf32" and device.type != "cuda":
        raise UnavailableError(f"tf32 needs a CUDA device, this is a {device.type}")
    dtype = getattr(torch, _DTYPE_NAMES[number_format], None)
    if not isinstance(dtype, torch.dtype):
        raise UnavailableError(f"torch {torch.__version__} has no {_DTYPE_NAMES[number_format]} for {number_format}")
    return dtype


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return normally distributed values. The power and so the clock of a GPU depend on
    the bits. 8-bit ones are cast from bf16."""
    if dtype.itemsize > 1:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randn(shape, dtype=torch.bfloat16, device=device).to(dtype)


def with_tf32(work: Work) -> Work:
    """Run `work` with fp32 matmuls on tensor cores, as a run in tf32 does, and restore the setting afterwards."""

    def in_tf32() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return work()
        finally:
            torch.set_float32_matmul_precision(before)

    return in_tf32
