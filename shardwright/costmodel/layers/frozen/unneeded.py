"""What the backward of a layer with frozen weights leaves out beside the matmuls of the weights' gradients."""

from collections.abc import Sequence

from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.op_times import Operator
from shardwright.specs import Stack
from shardwright.specs.model import Block

# The gradient of a norm's weight: in eager PyTorch a product of two tensors and its sum over the tokens, in 16 bits; in a
# fused kernel the gradient and the input read once more.
_EAGER_PASSES, _FUSED_PASSES = 4.0, 2.0
_EAGER_KERNELS, _FUSED_KERNELS = 2, 1


def unneeded_norm_passes(operator: Operator) -> float:
    """Return the reads and writes of each element that the gradient of a norm's weight takes (`OPERATOR_PASSES` has them)."""
    return _EAGER_PASSES if operator == "eager_rmsnorm" else _FUSED_PASSES


def unneeded_kernels(block: Block, stack: Stack, linears: Sequence[Matmul]) -> int:
    """Return the launches of a backward that frozen weights leave out: one for each linear, and those of the norms
    (tests/costmodel/layers/frozen/test_unneeded.py counts them on torch)."""
    norms = block.norm_count + 2 * (getattr(block.attention, "qk_norm", "none") != "none")
    eager = not stack.fused_norms and (block.norm.kind == "rmsnorm" or block.norm.written_out)
    return len(linears) + norms * (_EAGER_KERNELS if eager else _FUSED_KERNELS)
