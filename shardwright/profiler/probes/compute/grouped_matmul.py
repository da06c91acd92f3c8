"""The linear layers of a mixture's experts, forward and both gradients: in one kernel, or in a kernel for each expert."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

from .matmul import MatmulProbe

_MULTIPLES = (16, 16, 16, 1)


@dataclass(frozen=True)
class _OfExperts:
    """Axes m, k, n, groups: those of `MatmulProbe` for one group. Every expert has equally many tokens."""

    part: MatmulPart
    format: Format
    wanted: tuple[Sizes, ...]
    operation: str = "matmul"
    axes: tuple[str, ...] = ("m", "k", "n", "groups")

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return size_between(one, other, _MULTIPLES)


@dataclass(frozen=True)
class GroupedMatmulProbe(_OfExperts):
    """All experts in one kernel.

    The operands are those of autograd in transformers' grouped experts: tokens (groups x tokens, in), sorted by expert,
    and weights (groups, out, in).
    """

    @property
    def variant(self) -> str:
        return f"grouped_{self.part}"

    def needed_bytes(self, at: Sizes) -> float:
        return rotated_bytes(set_bytes=self._set_bytes(at), result_bytes=self._result_bytes(at))

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        dtype = torch_dtype(self.format, machine.device)
        multiply = available("grouped_mm", functional, torch)
        m, k, n, groups = (round(size) for size in at)
        tokens = k if self.part == "weight_gradient" else m
        ends = torch.arange(1, groups + 1, device=machine.device, dtype=torch.int32) * tokens

        def make() -> Work:
            one, other = (random_tensor(shape, dtype, machine.device) for shape in self._shapes(m, k, n, groups))
            return self._work(multiply, one, other, ends)

        set_bytes, result_bytes = self._set_bytes(at), self._result_bytes(at)
        return tried(
            lambda: rotated(make, set_bytes=set_bytes, result_bytes=result_bytes),
            f"{self.variant} matmul in {self.format}",
        )

    def _set_bytes(self, at: Sizes) -> float:
        m, k, n, groups = at
        return BYTES[self.format] * groups * k * (m + n) + 4.0 * groups

    def _result_bytes(self, at: Sizes) -> float:
        m, _, n, groups = at
        return groups * m * n * BYTES[self.format]

    def _shapes(self, m: int, k: int, n: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the two operands as stored, row by row."""
        if self.part == "forward":
            return (groups * m, k), (groups, n, k)
        if self.part == "input_gradient":
            return (groups * m, k), (groups, k, n)
        return (groups * k, n), (groups * k, m)

    def _work(self, multiply: Callable[..., Tensor], one: Tensor, other: Tensor, ends: Tensor) -> Work:
        if self.part == "forward":
            one.requires_grad_()
            other.requires_grad_()
            return lambda: multiply(one, other.transpose(-2, -1), offs=ends)
        if self.part == "input_gradient":
            return lambda: multiply(one, other, offs=ends)
        return lambda: multiply(one.t(), other, offs=ends)


@dataclass(frozen=True)
class LoopedMatmulProbe(_OfExperts):
    """One matmul for each expert, which has tensors of its own, as Transformer Engine's GroupedLinear and transformers' loop
    run them."""

    @property
    def variant(self) -> str:
        return f"looped_{self.part}"

    def needed_bytes(self, at: Sizes) -> float:
        *each, groups = at
        return rotated_bytes(
            set_bytes=groups * self._of_one.set_bytes(tuple(each)),
            result_bytes=groups * self._of_one.result_bytes(tuple(each)),
            extra_bytes=self._of_one.making_bytes(tuple(each)),
        )

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        *sizes, groups = at
        each, one = tuple(sizes), self._of_one

        def make() -> Work:
            works = [one.once(each, machine.device) for _ in range(round(groups))]
            return lambda: [work() for work in works]

        work = tried(
            lambda: rotated(make, set_bytes=groups * one.set_bytes(each), result_bytes=groups * one.result_bytes(each)),
            f"{self.variant} matmul in {self.format}",
        )
        return with_tf32(work) if self.format == "tf32" else work

    @property
    def _of_one(self) -> MatmulProbe:
        return MatmulProbe(self.part, self.format, ())
