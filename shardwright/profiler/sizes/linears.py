"""Sizes of weight matmuls: those of a model, at the exact shapes of the cost model, and a family that spans models."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from shardwright.costmodel.layers import joins_attention, operators
from shardwright.costmodel.op_times import MatmulPart
from shardwright.profiler.timing import Sizes
from shardwright.specs import TrainingSpec
from shardwright.specs.model import ModelSpec

_CPU_MOST_FLOPS = 6e9  # about a tenth of a second on a few cores
_UP = 4  # width of a feed-forward over its hidden size


class Linear(NamedTuple):
    """A linear layer: `tokens` rows of `inputs` in, of `outputs` out; `groups` of them, each on its own `tokens`."""

    tokens: int
    inputs: int
    outputs: int
    groups: int = 1

    def sizes(self, part: MatmulPart) -> Sizes:
        """Return (m, k, n) of a pass: its result is m x n, and k is the inner size, as in `WeightMatmuls`."""
        tokens, inputs, outputs = float(self.tokens), float(self.inputs), float(self.outputs)
        return {
            "forward": (tokens, inputs, outputs),
            "input_gradient": (tokens, outputs, inputs),
            "weight_gradient": (inputs, tokens, outputs),
        }[part]

    @property
    def flops(self) -> float:
        return 2.0 * self.tokens * self.inputs * self.outputs * self.groups


def model_linears(
    model: ModelSpec, training: TrainingSpec, micro_batches: Sequence[int] = (1,), tp: Sequence[int] = (1,)
) -> list[Linear]:
    """Return the weight matmuls of every layer class and the head, for each micro
    batch and each tp degree that divides them."""
    found: dict[Linear, None] = {}
    for micro_batch in micro_batches:
        for degree in tp:
            tokens, ranks = np.array([float(micro_batch * training.seq_len)]), np.array([float(degree)])
            matmuls = [operators.Matmul(tokens, model.hidden_size, model.vocab_size / ranks)]
            for block in (half for layer in model.layer_classes for half in layer.halves):
                job, stack = (block, model.hidden_size, tokens, ranks), training.software
                matmuls += operators.attention_matmuls(*job, joined=joins_attention(block, model, stack))
                matmuls += operators.ffn_matmuls(*job, joined=stack.joined_projections)
            found |= dict.fromkeys(_whole(matmuls))
    return list(found)


def _whole(matmuls: Iterable[operators.Matmul]) -> Iterable[Linear]:
    """Yield those whose sizes are whole numbers. A degree that does not divide them cannot run."""
    for matmul in matmuls:
        sizes = [float(np.asarray(size).reshape(-1)[0]) for size in (matmul.m, matmul.k, matmul.n, matmul.groups)]
        if all(size >= 1 and size.is_integer() for size in sizes):
            yield Linear(*(int(size) for size in sizes))


def family_linears(device_type: str) -> list[Linear]:
    """Return projections, both halves of a feed-forward, and heads of models from small to large.

    They are limited to what the device computes in reasonable time.
    """
    hiddens: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    tokens: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    vocabularies: tuple[int, ...] = (32000, 128256)
    if device_type == "cpu":
        hiddens, tokens, vocabularies = (128, 256, 512, 1024), (256, 512, 1024, 2048, 4096), (4096, 32000)
    family = [
        Linear(rows, inputs, outputs)
        for rows in tokens
        for hidden in hiddens
        for inputs, outputs in [(hidden, hidden), (hidden, _UP * hidden), (_UP * hidden, hidden)]
    ]
    family += [
        Linear(rows, hidden, vocabulary)
        for rows in tokens[:3]
        for hidden in hiddens[1::2]
        for vocabulary in vocabularies
    ]
    return [linear for linear in family if device_type != "cpu" or linear.flops <= _CPU_MOST_FLOPS]


def family_experts(device_type: str) -> list[Linear]:
    """Return experts of mixtures, 1 to 64 on a rank, with 16 to 8,192 tokens each."""
    hiddens, tokens, counts = (1024, 2048, 4096), (16, 64, 256, 1024, 8192), (1, 4, 8, 64)
    if device_type == "cpu":
        hiddens, tokens, counts = (128, 256, 512), (16, 64, 256, 1024, 8192), (1, 4, 8, 64)
    family = [
        Linear(rows, inputs, outputs, groups)
        for groups in counts
        for rows in tokens
        for hidden in hiddens
        for inputs, outputs in [(hidden, 2 * hidden), (hidden, hidden)]
    ]
    return [linear for linear in family if device_type != "cpu" or linear.flops <= _CPU_MOST_FLOPS]
