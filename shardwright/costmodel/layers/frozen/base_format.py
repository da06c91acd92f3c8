"""Frozen weights in their format: the bytes they occupy, and the traffic of making 16 bits of them for each use.

nf4 and gptq: a kernel writes the weight in the compute format, in the forward and again for the gradient of the input
(bitsandbytes, autograd/_functions.py, MatMul4Bit; AutoGPTQ's triton_v2 kernels, QuantLinearFunction). A repeated forward does it
once more. nf4 first restores the scales (functional.py, dequantize_4bit: the 8-bit scales, their mean, then the weight).
int8: the forward casts the input and multiplies in int8, whose fp32-sized result is cast back; the gradient of the input reads
the weight restored to the compute format (autograd/_functions.py, MatMul8bitLt). The matmul itself is taken at the rate of
the compute format.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.operators import INPUT_MODULES, Matmul
from shardwright.specs import STORED_BYTES, BaseFormat, TrainingSpec

# Kernels that restore one weight, and in int8 those around the forward's matmul.
_RESTORING_KERNELS: dict[BaseFormat, float] = {"compute": 0, "nf4": 3, "gptq": 1, "int8": 1}
_INT8_FORWARD_KERNELS, _INT32_BYTES = 2.0, 4


def stored_bytes(training: TrainingSpec) -> float:
    """Return the bytes of one frozen weight of a layer's linears. Norms, biases, routers, embedding and head lie in the compute
    format."""
    return STORED_BYTES.get(training.trainable.base, float(training.precision.activation_bytes_per_element))


@dataclass(frozen=True)
class BaseWeights:
    """The frozen weights of `linears`, the weight matmuls of a layer, on one rank."""

    training: TrainingSpec
    linears: Sequence[Matmul]

    def frozen_bytes(self, elements: Array) -> Array:
        """(N,): bytes of a layer's frozen weights on this rank, `elements` with everything that is no linear."""
        element = float(self._element)
        lower = element - stored_bytes(self.training)
        quantised = sum((np.asarray(w.k, dtype=float) * w.n * w.groups for w in self._quantised), np.zeros(()))
        return np.asarray(element * elements - lower * quantised)

    @property
    def forward_bytes(self) -> Array:
        """(N,): memory traffic that the format adds to a forward."""
        if self._base == "int8":
            element = self._element
            moved = (
                _tokens(w) * ((element + 1) * np.asarray(w.k) + (_INT32_BYTES + element) * np.asarray(w.n))
                for w in self._quantised
            )
            return np.asarray(sum(moved, np.zeros(())))
        return self._restored_bytes + self._widened_bytes

    @property
    def backward_bytes(self) -> Array:
        """(N,): memory traffic that the format adds to a backward."""
        return self._restored_bytes + self._widened_bytes

    @property
    def kernels(self) -> tuple[float, float]:
        """Launches that it adds to a forward and to a backward."""
        count = len(self._quantised)
        restoring = _RESTORING_KERNELS[self._base] * count
        return (_INT8_FORWARD_KERNELS * count if self._base == "int8" else restoring), restoring

    @property
    def _restored_bytes(self) -> Array:
        """(N,): stored bytes read and elements written for each weight."""
        if self._base == "compute":
            return np.zeros(())
        each = STORED_BYTES[self._base] + self._element
        weights = (np.asarray(w.k, dtype=float) * w.n * w.groups for w in self._quantised)
        return np.asarray(each * sum(weights, np.zeros(())))

    @property
    def _widened_bytes(self) -> Array:
        """(N,): where the stream is wider than the compute format, each linear's input is cast for it and its result cast back, and
        queries, keys and values are cast again for a fused kernel. The output projection reads what that kernel wrote."""
        element, stream = self._element, self.training.stream_bytes_per_element
        if stream == element:
            return np.zeros(())
        moved = (
            _tokens(w) * (np.asarray(w.k, dtype=float) + (2 if w.modules[0] in INPUT_MODULES else 1) * np.asarray(w.n))
            for w in self._quantised
            if "o_proj" not in w.modules
        )
        return np.asarray((element + stream) * sum(moved, np.zeros(())))

    @property
    def _base(self) -> BaseFormat:
        return self.training.trainable.base

    @property
    def _quantised(self) -> list[Matmul]:
        return [] if self._base == "compute" else [linear for linear in self.linears if linear.modules]

    @property
    def _element(self) -> int:
        return self.training.precision.activation_bytes_per_element


def _tokens(linear: Matmul) -> Array:
    return np.asarray(linear.m, dtype=float) * linear.groups
