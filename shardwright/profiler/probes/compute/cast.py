"""Casts of 16-bit tensors into the operands of 8-bit and 4-bit matmuls, with the scales that their format has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from shardwright.costmodel.op_times import OPERANDS, cast_variant
from shardwright.profiler.sizes import size_between
from shardwright.profiler.timing import (
    BYTES,
    Machine,
    Sizes,
    UnavailableError,
    Work,
    random_tensor,
    rotated,
    rotated_bytes,
    torch_dtype,
    tried,
)
from shardwright.specs import Format, LinearFormat

Operands = tuple[Tensor, ...]

_FP8_MOST, _FP4_MOST = 448.0, 6.0  # largest numbers of e4m3 and e2m1 (OCP Microscaling Formats 1.0, section 5.3)
_FP8_LARGEST_EXPONENT = 8  # of the largest power of two in e4m3
_MX_BLOCK, _NV_BLOCK = 32, 16
CAST_MULTIPLE = _MX_BLOCK
"""Numbers of a row come in whole blocks of this size."""

_FP4_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between neighbours of 0, 0.5, 1, 1.5, 2, 3, 4, 6
_LEAST = 2.0**-126
_WORKING_BYTES: Mapping[LinearFormat, float] = {"fp8": 9.0, "fp8-rowwise": 9.0, "mxfp8": 9.0, "nvfp4": 12.0}
CAST_FORMATS: tuple[LinearFormat, ...] = tuple(low for low in get_args(LinearFormat) if low in _WORKING_BYTES)


@dataclass(frozen=True)
class CastProbe:
    """Axes rows, width: of the source, in `format`. The result lies along the width, as the first layout of an operand.

    `low`: the format of the result. fp8 has one scale for the tensor or for each row, from its current values; mxfp8 one
    power of two for 32 numbers; nvfp4 one e4m3 number for 16 and one fp32 number for the tensor. `compiled`: by
    torch.compile, once for all sizes; otherwise in eager PyTorch.
    """

    low: LinearFormat
    compiled: bool
    format: Format
    wanted: tuple[Sizes, ...]
    operation: str = "cast"
    axes: tuple[str, ...] = ("rows", "width")

    @property
    def variant(self) -> str:
        return cast_variant(self.low, compiled=self.compiled)

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return size_between(one, other, (16, CAST_MULTIPLE))

    def needed_bytes(self, at: Sizes) -> float:
        elements = at[0] * at[1]
        return rotated_bytes(
            set_bytes=self._set_bytes(at),
            result_bytes=self._result_bytes(at),
            extra_bytes=_WORKING_BYTES[self.low] * elements,
        )

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        _check_types(self.low)
        dtype = torch_dtype(self.format, machine.device)
        rows, width = (round(size) for size in at)
        cast = _compiled(self.low) if self.compiled else _CASTS[self.low]

        def make() -> Work:
            source = random_tensor((rows, width), dtype, machine.device)
            return lambda: cast(source)

        set_bytes, result_bytes = self._set_bytes(at), self._result_bytes(at)
        return tried(
            lambda: rotated(make, set_bytes=set_bytes, result_bytes=result_bytes),
            f"cast to {self.variant} from {self.format}",
        )

    def _set_bytes(self, at: Sizes) -> float:
        return BYTES[self.format] * at[0] * at[1]

    def _result_bytes(self, at: Sizes) -> float:
        rows, width = at
        return OPERANDS[self.low].bytes * rows * width + 4.0 * rows


def by_tensor(source: Tensor) -> Operands:
    """Return `source` in fp8 with one scale, by which its numbers were divided."""
    scale = _scale(source.abs().amax())
    return _fp8(source.float() / scale), scale


def by_rows(source: Tensor) -> Operands:
    """Return `source` in fp8 with one scale for each row."""
    scale = _scale(source.abs().amax(-1, keepdim=True))
    return _fp8(source.float() / scale), scale


def by_mx_blocks(source: Tensor) -> Operands:
    """Return `source` (rows, width) in fp8 with a power of two for each 32 numbers of a row.

    The power is the largest in the block over the largest in e4m3 (OCP Microscaling Formats 1.0, section 6.3).
    """
    blocks = source.view(source.shape[0], -1, _MX_BLOCK)
    most = blocks.abs().amax(-1, keepdim=True).float().clamp(min=_LEAST)
    exponents = (torch.floor(torch.log2(most)) - _FP8_LARGEST_EXPONENT).clamp(min=-127.0)
    numbers = _fp8(blocks.float() * torch.exp2(-exponents))
    return numbers.flatten(-2), torch.exp2(exponents).squeeze(-1).to(torch.float8_e8m0fnu)


def by_nv_blocks(source: Tensor) -> Operands:
    """Return `source` (rows, width) in fp4, two in a byte (uint8, the first in the low bits), with an e4m3 scale for each 16 numbers, and one of the tensor.

    The scale of the tensor makes the largest block's scale the largest e4m3 number (NVIDIA, Transformer Engine, NVFP4).
    """
    whole = source.abs().amax().float().clamp(min=_LEAST) / (_FP8_MOST * _FP4_MOST)
    blocks = source.view(source.shape[0], -1, _NV_BLOCK)
    scales = (blocks.abs().amax(-1, keepdim=True).float() / (_FP4_MOST * whole)).clamp(min=2.0**-9, max=_FP8_MOST)
    scales = scales.to(torch.float8_e4m3fn)
    codes = _fp4_codes(blocks.float() / (scales.float() * whole)).flatten(-2)
    packed = codes[..., ::2] | codes[..., 1::2] << 4
    return packed, scales.squeeze(-1), whole


def _scale(most: Tensor) -> Tensor:
    return most.float().clamp(min=_LEAST) / _FP8_MOST


def _fp8(numbers: Tensor) -> Tensor:
    return numbers.clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn)


def _fp4_codes(numbers: Tensor) -> Tensor:
    """Return the four bits of the nearest e2m1 number: a sign, and the number of smaller magnitudes."""
    codes = (numbers < 0).to(torch.uint8) << 3
    magnitudes = numbers.abs()
    for middle in _FP4_MIDDLES:
        codes = codes + (magnitudes > middle).to(torch.uint8)
    return codes


_CASTS: Mapping[LinearFormat, Callable[[Tensor], Operands]] = {
    "fp8": by_tensor,
    "fp8-rowwise": by_rows,
    "mxfp8": by_mx_blocks,
    "nvfp4": by_nv_blocks,
}
_TYPES: Mapping[LinearFormat, tuple[str, ...]] = {
    "fp8": ("float8_e4m3fn",),
    "fp8-rowwise": ("float8_e4m3fn",),
    "mxfp8": ("float8_e4m3fn", "float8_e8m0fnu"),
    "nvfp4": ("float8_e4m3fn", "float4_e2m1fn_x2"),
}


@cache
def _compiled(low: LinearFormat) -> Callable[[Tensor], Operands]:
    """Return the compiled cast. Its sizes are variables, so that it is compiled once."""
    compiled: Callable[[Tensor], Operands] = torch.compile(_CASTS[low], dynamic=True)
    return compiled


def _check_types(low: LinearFormat) -> None:
    for name in _TYPES[low]:
        if not isinstance(getattr(torch, name, None), torch.dtype):
            raise UnavailableError(f"torch {torch.__version__} has no {name} for {low}")
