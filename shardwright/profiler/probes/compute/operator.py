"""Memory-bound operators, forward and backward."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from shardwright.costmodel.op_times import Operator
from shardwright.profiler.sizes import size_between
from shardwright.profiler.timing import (
    Footprint,
    Machine,
    Sizes,
    UnavailableError,
    Work,
    footprint,
    rotated,
    rotated_bytes,
    torch_dtype,
    tried,
)
from shardwright.specs import Format

from .operator_work import BACKWARD_APART, BY_HEADS, FORWARD, Operands

_META = torch.device("meta")


@dataclass(frozen=True)
class OperatorProbe:
    """Axes rows, width: rows x width are the elements that `OpTimes.operator_seconds` counts.

    The backward pass of an embedding has the rows and the width of its table, and the tokens. `head_size`: of the
    elements that are rotated or copied to another layout.
    """

    operator: Operator
    backward: bool
    format: Format
    wanted: tuple[Sizes, ...]
    head_size: int = 64
    vocabulary: int = 32000

    @property
    def operation(self) -> str:
        return self.operator

    @property
    def variant(self) -> str:
        return "backward" if self.backward else "forward"

    @property
    def axes(self) -> tuple[str, ...]:
        return ("rows", "width", "tokens") if self._of_table else ("rows", "width")

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        width = self.head_size if self.operator in BY_HEADS else 16
        return size_between(one, other, (16, width, 16)[: len(self.axes)])

    def needed_bytes(self, at: Sizes) -> float:
        found = _footprint(self, at)
        return rotated_bytes(set_bytes=found.operands_bytes, result_bytes=found.working_bytes)

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        dtype = torch_dtype(self.format, machine.device)
        if dtype.itemsize == 1:
            raise UnavailableError(f"{self.operator} is not computed in {self.format}")
        operands = self._operands(at, dtype, machine.device)
        found = _footprint(self, at)
        return tried(
            lambda: rotated(
                lambda: self._work(at, operands), set_bytes=found.operands_bytes, result_bytes=found.working_bytes
            ),
            f"{self.operator} {self.variant} in {self.format}",
        )

    def _operands(self, at: Sizes, dtype: torch.dtype, device: torch.device) -> Operands:
        """Return operands with heads of a size that divides the width; the requested one where it does."""
        return Operands(dtype, device, math.gcd(self.head_size, round(at[1])), self.vocabulary)

    @property
    def _of_table(self) -> bool:
        return self.operator == "embedding" and self.backward

    def _work(self, at: Sizes, operands: Operands) -> Work:
        sizes = [round(size) for size in at]
        if self.backward and (alone := BACKWARD_APART.get(self.operator)):
            return alone(operands, *sizes).forward
        if self._of_table:
            vocabulary, width, tokens = sizes
            operands, sizes = replace(operands, vocabulary=vocabulary), [tokens, width]
        graph = FORWARD[self.operator](operands, *sizes)
        if not self.backward:
            return graph.forward
        results = graph.forward()
        results = results if isinstance(results, tuple) else (results,)
        gradients = tuple(torch.randn_like(result) for result in results)
        return lambda: torch.autograd.grad(results, graph.leaves, gradients, retain_graph=True)


@lru_cache(maxsize=4096)
def _footprint(probe: OperatorProbe, at: Sizes) -> Footprint:
    dtype = torch_dtype(probe.format, _META)
    return footprint(lambda: probe._work(at, probe._operands(at, dtype, _META)))
