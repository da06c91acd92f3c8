"""The number formats of a profile as torch knows them."""

from collections.abc import Callable

import torch
from torch import Tensor

from shardwright.costmodel.profile import Format

from .probe import UnavailableError, Work

_DTYPE_NAMES: dict[Format, str] = {
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
}
BYTES: dict[Format, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""Of one element."""


def torch_dtype(number_format: Format, device: torch.device) -> torch.dtype:
    """What tensors of `number_format` are made of on `device`.

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
    """Normally distributed, as power and so the clock of a GPU depend on the bits; 8-bit formats are made of bf16."""
    if dtype.itemsize > 1:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randn(shape, dtype=torch.bfloat16, device=device).to(dtype)


def with_tf32(work: Work) -> Work:
    """`work` with fp32 matmuls on tensor cores, as a run in tf32 has them; what was set before is put back."""

    def in_tf32() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return work()
        finally:
            torch.set_float32_matmul_precision(before)

    return in_tf32


def tried(make: Callable[[], Work], what: str) -> Work:
    """What `make` makes, after it ran once.

    Raises:
        UnavailableError: it cannot be made, or does not run; one line says what and why.
    """
    try:
        work = make()
        work()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UnavailableError(f"{what}: {reason[:200]}") from None
    return work


def available(name: str, *holders: object) -> Callable[..., Tensor]:
    """The function called `name` of the first of `holders` that has it: torch moves and renames them between versions.

    Raises:
        UnavailableError: none has it.
    """
    for holder in holders:
        for spelled in (name, f"_{name}"):
            if callable(function := getattr(holder, spelled, None)):
                return function  # type: ignore[no-any-return]  # looked up by name
    raise UnavailableError(f"torch {torch.__version__} has no {name}")
