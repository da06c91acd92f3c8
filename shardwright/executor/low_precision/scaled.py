"""A linear whose three matmuls read 8-bit floats, with one scale for each operand, found when it is cast.

Formats and scales are those of torchao's tensorwise recipe (torchao 0.18, float8/config.py, Float8LinearConfig; float8_utils.py,
amax_to_scale): inputs and weights in e4m3, gradients in e5m2 (Micikevicius et al. 2022, arXiv 2209.05433), s = largest number of the
format / largest magnitude of the operand. torchao scales what a rank has in hand. Here ranks that hold parts of an operand, of tp
its columns or rows and of cp its tokens, agree on the largest magnitude first, so that they cast as one process casts the whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from shardwright.executor.model import MeshRanks

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
"""The formats of inputs and weights, and of gradients."""
_SMALLEST = 1e-12
"""Magnitudes are taken to be at least this (torchao, float8_utils.py, EPS)."""
_MULTIPLE = 16
"""Inner size and columns of an 8-bit matmul are multiples of this (torch 2.13, torch/_meta_registrations.py, meta_scaled_mm)."""


def scaled_linear(hidden: Tensor, weight: Tensor, ranks: Sequence[MeshRanks]) -> Tensor:
    """Return hidden (..., inputs) times weight (outputs, inputs) transposed, (..., outputs), in the format of `hidden`.

    `ranks`: the groups over which parts of the operands lie. Ranks that hold the same parts may be among them.
    """
    with torch.no_grad():
        scales = _scales(FORWARD, (hidden, weight), ranks)
    stand_in: Tensor = _Gradients.apply(hidden, weight, scales, ranks)  # type: ignore[no-untyped-call]  # torch's
    product: Tensor = _Product.apply(stand_in, hidden.detach(), weight.detach(), scales)  # type: ignore[no-untyped-call]
    return product


class _Gradients(torch.autograd.Function):
    """Keeps what both gradients read, and stands for the product. A checkpoint that has this again stops before the matmul."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, scales: Tensor, ranks: Sequence[MeshRanks]) -> Tensor:
        ctx.save_for_backward(hidden, weight, scales)
        ctx.ranks = ranks
        return hidden.new_zeros(()).expand(*hidden.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, scales = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        scale = _scales(BACKWARD, (gradient,), ctx.ranks)[0]
        cast = _cast(gradient, scale, BACKWARD)
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            turned = _cast(weight, scales[1], FORWARD).t()
            of_hidden = _multiplied(cast, turned, scale, scales[1], hidden.dtype).view_as(hidden)
        if ctx.needs_input_grad[1]:
            turned = _cast(hidden.flatten(0, -2), scales[0], FORWARD).t()
            of_weight = _multiplied(cast.t(), turned, scale, scales[0], weight.dtype)
        return of_hidden, of_weight, None, None


class _Product(torch.autograd.Function):
    """The product, whose gradient goes to what stands for it."""

    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, hidden: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        rows, columns = _cast(hidden.flatten(0, -2), scales[0], FORWARD), _cast(weight, scales[1], FORWARD)
        product = _multiplied(rows, columns, scales[0], scales[1], hidden.dtype, forward=True)
        return product.view(stand_in.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        return gradients[0], None, None, None


def _scales(dtype: torch.dtype, operands: Sequence[Tensor], ranks: Sequence[MeshRanks]) -> Tensor:
    """(operands,): what each is multiplied by before its cast, in fp32."""
    largest = torch.stack([operand.abs().amax().float() for operand in operands])
    for group in ranks:
        largest = group.largest(largest)
    # in fp64, so that compiled and eager code agree (torchao, float8_utils.py, amax_to_scale)
    return (torch.finfo(dtype).max / largest.double().clamp(min=_SMALLEST)).float()


def _cast(operand: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    limit = torch.finfo(dtype).max
    return (operand.float() * scale).clamp(-limit, limit).to(dtype)


def _multiplied(
    rows: Tensor, columns: Tensor, of_rows: Tensor, of_columns: Tensor, dtype: torch.dtype, *, forward: bool = False
) -> Tensor:
    """Return rows (m, k) times columns (n, k) transposed, (m, n), over both scales. The forward adds up in fewer bits, as torchao's does."""
    count = columns.shape[0]
    inner, outer = -rows.shape[1] % _MULTIPLE, -count % _MULTIPLE
    if inner:
        rows = pad(rows, (0, inner))
    if inner or outer:
        columns = pad(columns, (0, inner, 0, outer))
    product = torch._scaled_mm(
        rows.contiguous(),
        columns.contiguous().t(),
        scale_a=of_rows.reciprocal(),
        scale_b=of_columns.reciprocal(),
        out_dtype=dtype,
        use_fast_accum=forward,
    )
    return product[:, :count].contiguous() if outer else product
