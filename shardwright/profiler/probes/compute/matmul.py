"""Matmuls of linear layers: the forward pass and both gradients, in the memory layout of autograd for `F.linear`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from shardwright.costmodel.op_times import MatmulPart
from shardwright.profiler.sizes import size_between
from shardwright.profiler.timing import (
    BYTES,
    Machine,
    Sizes,
    Work,
    available,
    random_tensor,
    rotated,
    rotated_bytes,
    torch_dtype,
    tried,
    with_tf32,
)
from shardwright.specs import Format

Scales = Literal["tensor", "row"]
_MULTIPLE = 16  # of sizes between others: 8-bit tensor cores require it, and it is a cache line of 32-bit numbers


@dataclass(frozen=True)
class MatmulProbe:
    """Axes m, k, n: the result is m x n, and k is the inner size, as in `OpTimes.matmul_seconds` for the same part.

    Forward is x @ w.T, input gradient g @ w, weight gradient g.T @ x, with x (tokens, in), w (out, in), g
    (tokens, out). For the weight gradient m = in, k = tokens, n = out. In fp8 (e4m3, result in bf16) both operands lie
    along the inner size, as tensor cores read them, with one scale for each `tensor` or each `row`.
    """

    part: MatmulPart
    format: Format
    wanted: tuple[Sizes, ...]
    scales: Scales = "tensor"
    operation: str = "matmul"
    axes: tuple[str, ...] = ("m", "k", "n")

    @property
    def variant(self) -> str:
        return self.part if self.scales == "tensor" else f"{self.part}-rowwise"

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return size_between(one, other, (_MULTIPLE,) * 3)

    def needed_bytes(self, at: Sizes) -> float:
        return rotated_bytes(
            set_bytes=self.set_bytes(at), result_bytes=self.result_bytes(at), extra_bytes=self.making_bytes(at)
        )

    def making_bytes(self, at: Sizes) -> float:
        """Return the bytes that making the operands takes once: 8-bit ones are made from 16-bit ones, one by one."""
        m, k, n = at
        return 3.0 * k * max(m, n) if self.format == "fp8" else 0.0

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        set_bytes, result_bytes = self.set_bytes(at), self.result_bytes(at)
        work = tried(
            lambda: rotated(lambda: self.once(at, machine.device), set_bytes=set_bytes, result_bytes=result_bytes),
            f"{self.variant} matmul in {self.format}",
        )
        return with_tf32(work) if self.format == "tf32" else work

    def once(self, at: Sizes, device: torch.device) -> Work:
        """Return the work on one set of operands, made here.

        Raises:
            UnavailableError: torch lacks the format or the matmul.
        """
        dtype = torch_dtype(self.format, device)
        rows, inner, columns = (round(size) for size in at)
        if self.part == "weight_gradient":
            rows, columns = columns, rows  # g.T @ x: outputs x inputs
        one, other = (random_tensor(shape, dtype, device) for shape in self._shapes(rows, inner, columns))
        return self._work(one, other)

    def set_bytes(self, at: Sizes) -> float:
        """Return the bytes of the operands, scales included."""
        m, k, n = at
        scale_bytes = 4.0 * (m + n) if self.format == "fp8" else 0.0
        return BYTES[self.format] * k * (m + n) + scale_bytes

    def result_bytes(self, at: Sizes) -> float:
        """Return the bytes of the result."""
        m, _, n = at
        return m * n * BYTES["bf16" if self.format == "fp8" else self.format]

    def _shapes(self, rows: int, inner: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the shapes of the two operands as stored, row by row."""
        if self.format == "fp8" or self.part == "forward":
            return (rows, inner), (columns, inner)
        if self.part == "input_gradient":
            return (rows, inner), (inner, columns)
        return (inner, rows), (inner, columns)

    def _work(self, one: Tensor, other: Tensor) -> Work:
        if self.format == "fp8":
            return self._scaled(one, other)
        if self.part == "forward":
            one.requires_grad_()
            other.requires_grad_()
            return lambda: functional.linear(one, other)
        if self.part == "input_gradient":
            return lambda: one @ other
        return lambda: one.t() @ other

    def _scaled(self, one: Tensor, other: Tensor) -> Work:
        multiply = available("scaled_mm", torch)
        by_row = self.scales == "row"
        one_scale = torch.ones((one.shape[0], 1) if by_row else (), device=one.device)
        other_scale = torch.ones((1, other.shape[0]) if by_row else (), device=one.device)
        return lambda: multiply(one, other.t(), one_scale, other_scale, out_dtype=torch.bfloat16)
