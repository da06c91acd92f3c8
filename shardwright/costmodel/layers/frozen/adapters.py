"""Low-rank adapters of the linears of one layer, on one rank.

Beside a frozen linear with weight W (n, k), an adapter adds s B (A x) to W x: A (r, k) and B (n, r) are trained, s is a
number (Hu et al. 2021, arXiv 2106.09685, section 4.1). PEFT runs it as it stands (peft/tuners/lora/layer.py, Linear.forward):
dropout where there is one, A, B, the product with s, the sum. Of it autograd keeps the input of A and that of B.

Symbols: T tokens, r rank, k inputs and n outputs of the linear on this rank, e bytes of an element. Forward:
2 T r (k + n) FLOPs; product and sum read 3 T n and write 2 T n elements. Backward: twice the FLOPs; the product of the gradient
reads and writes T n, the sum of the two gradients of the input reads 2 T k and writes T k elements.

Under tensor parallelism a linear that is split by columns has a whole A and the columns of B, one that is split by rows has
the rows of A and a whole B. B A x is then added before the reduction of W x, so no communication is added to a pass (NeMo,
megatron/adapters/parallel_adapters.py). The gradients of whole matrices are summed over tp. For other software than this project's
executor that sum is left out: they are a thousandth of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.operators import Matmul
from shardwright.specs import Stack, TrainingSpec

# Launches of one adapter: two matmuls, the product and the sum; and in its backward two products with the gradient of the
# output, four matmuls of which two give gradients of weights, and the sum (tests/costmodel/layers/frozen/test_adapters.py
# counts them on torch). Beside dropout, each pass has one more.
_FORWARD_KERNELS, _BACKWARD_KERNELS = 4, 6
# A dropout reads and writes an element and a mask of one byte, in either pass.
_MASK_BYTES = 1
_SPLIT_BY_ROWS, _NOT_SPLIT = ("o_proj", "down_proj"), ("q_a_proj", "kv_a_proj")
# PEFT casts the input of an adapter with fp32 weights to fp32, and autocast casts it back for the matmul: two kernels each way.
_CAST_KERNELS, _FP32_BYTES = 2, 4


@dataclass(frozen=True)
class Adapters:
    """Adapters of those of `linears` that `training.trainable` names.

    `linears`: the weight matmuls of a layer, whose sizes broadcast over candidates.
    """

    training: TrainingSpec
    linears: Sequence[Matmul]

    @property
    def adapted(self) -> list[Matmul]:
        """The linears with an adapter."""
        trainable = self.training.trainable
        if not trainable.has_adapters:
            return []
        return [linear for linear in self.linears if trainable.adapts(*linear.modules)]

    @property
    def matmuls(self) -> list[Matmul]:
        """A and B of each adapter, in the compute format."""
        rank = self.training.trainable.rank
        return [
            matmul
            for linear in self.adapted
            for matmul in (
                Matmul(linear.m, linear.k, rank, linear.groups, experts=linear.experts),
                Matmul(linear.m, rank, linear.n, linear.groups, experts=linear.experts),
            )
        ]

    @property
    def parameters(self) -> Array:
        """(N,): elements of A and B on this rank, r (k + n) each."""
        rank = self.training.trainable.rank
        each = (rank * (np.asarray(w.k, dtype=float) + w.n) * w.groups for w in self.adapted)
        return np.asarray(sum(each, np.zeros(())))

    @property
    def whole_elements(self) -> list[Number]:
        """Elements of each matrix that all ranks of tp hold, and whose gradient is a part on each of them: A beside a linear split
        by columns, B beside one split by rows. What latent attention computes before its heads is whole on every rank."""
        return [
            self._whole_elements(linear)
            for linear in self.adapted
            if linear.modules[0] not in _NOT_SPLIT and not linear.experts
        ]

    @property
    def whole_expert_elements(self) -> list[Number]:
        """The same of routed experts: over the ranks that split the columns of each."""
        return [self._whole_elements(linear) for linear in self.adapted if linear.experts]

    def _whole_elements(self, linear: Matmul) -> Number:
        width = linear.n if linear.modules[0] in _SPLIT_BY_ROWS else linear.k
        return self.training.trainable.rank * width * linear.groups

    @property
    def forward_bytes(self) -> Array:
        """(N,): memory traffic of the forward beside the matmuls: 5 e T n, and what dropout and casts of the input move."""
        return np.asarray(
            sum((_tokens(w) * (5 * self._element * w.n + self._input_bytes * w.k) for w in self.adapted), 0.0)
        )

    @property
    def backward_bytes(self) -> Array:
        """(N,): the same of the backward: 2 e T n + 3 e T k, and dropout and casts again."""
        element = self._element
        moved = (_tokens(w) * (2 * element * w.n + (3 * element + self._input_bytes) * w.k) for w in self.adapted)
        return np.asarray(sum(moved, 0.0))

    @property
    def kept_bytes(self) -> Array:
        """(N,): bytes that autograd keeps of a microbatch beside the linears' own inputs: the inputs of the B, and with dropout
        a mask and a dropped copy of the input for each A."""
        trainable, element = self.training.trainable, self._element
        dropped = (element + _MASK_BYTES) * trainable.dropout
        return np.asarray(sum((_tokens(w) * (element * trainable.rank + dropped * w.k) for w in self.adapted), 0.0))

    @property
    def kernels(self) -> tuple[float, float]:
        """Launches of a forward and of a backward. One grouped kernel runs the adapters of all experts."""
        more = self.training.trainable.dropout + _CAST_KERNELS * self._casts
        return len(self.adapted) * (_FORWARD_KERNELS + more), len(self.adapted) * (_BACKWARD_KERNELS + more)

    @property
    def _element(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def _casts(self) -> bool:
        """Whether the input goes to fp32 and back: where the adapters' weights are kept in fp32, and the linear is not
        quantised (peft/tuners/lora/layer.py, _cast_input_dtype; bnb.py casts nothing under autocast)."""
        stack: Stack = self.training.software
        wide = self.training.precision.parameters == "fp32" and self._element < _FP32_BYTES
        return stack.widens_adapter_inputs and wide and self.training.trainable.base == "compute"

    @property
    def _input_bytes(self) -> Number:
        """Bytes moved for each element of an input by dropout and casts, in either pass."""
        element = _FP32_BYTES if self._casts else self._element
        dropout = (2 * element + _MASK_BYTES) * self.training.trainable.dropout
        return dropout + 2 * (self._element + _FP32_BYTES) * self._casts


def _tokens(linear: Matmul) -> Array:
    return np.asarray(linear.m, dtype=float) * linear.groups
