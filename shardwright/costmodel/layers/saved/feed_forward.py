"""What the feed-forward of a layer, or its experts, keep behind their input."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.operators import GATE_UP
from shardwright.specs import Trainable
from shardwright.specs.model import Activation, Block, FeedForward, MixtureOfExperts

from .families import LayerCode

# Tensors that an activation keeps beside its result. relu's gradient reads its result. gelu_new is written out: its
# input, half of that, the hyperbolic tangent and one more than that.
_ACTIVATION_TENSORS: dict[Activation, int] = {"kernel": 1, "relu": 0, "gelu_new": 4}
# gpt-oss: gate and up before their clamps, the clamped gate, its sigmoid, their product, up plus one, the result.
_CLAMPED_TENSORS = 7
# Of a chosen expert int64 indices are kept: its number, its place among the sorted tokens, that token, and the way back.
_INDEX_BYTES = 4 * 8


@dataclass(frozen=True)
class FeedForwardTensors:
    """Bytes per token of one rank.

    `copies`: routed tokens of the rank, per token, and `computed`: those that it computes, which may be means of several.
    `columns`: feed-forward columns of these, per token. All are 0 without experts. `element`: bytes of the compute format. `trainable`: frozen weights need no input of theirs.
    """

    block: Block
    code: LayerCode
    element: int
    hidden: int
    tp: Number
    copies: Number
    computed: Number
    columns: Number
    trainable: Trainable

    @property
    def inner(self) -> Array:
        """Bytes as wide as the feed-forward: the activation's input and result, and the other factor of a gated one."""
        ffn = self.block.ffn
        if isinstance(ffn, FeedForward):
            return self._activated(ffn.activation, ffn.width, gated=ffn.gated)
        routed = np.asarray(self.element * self._expert_tensors(ffn) * self.columns)
        return routed + self.shared

    @property
    def shared(self) -> Array:
        """The part of `inner` that shared experts keep."""
        ffn = self.block.ffn
        if isinstance(ffn, FeedForward):
            return np.zeros(())
        return self._activated("kernel", ffn.shared_width, gated=ffn.gated)

    @property
    def activated_experts(self) -> Array:
        """The part of `inner` that lies between the input and the result of the routed experts' activation."""
        ffn = self.block.ffn
        if isinstance(ffn, FeedForward):
            return np.zeros(())
        kept = _CLAMPED_TENSORS if ffn.clamped else _kept_tensors("kernel", gated=ffn.gated)
        between = kept - 1 - (1 + ffn.gated)
        return np.asarray(self.element * between * self.columns)

    @property
    def routed(self) -> Array:
        """Bytes of the router, of tokens on their way to experts and back, and of a shared expert's gate."""
        ffn, element, routing = self.block.ffn, self.element, self.code.routing
        if isinstance(ffn, FeedForward):
            return np.zeros(())
        router = routing.expert_bytes * ffn.choices + routing.token_bytes
        router += 4 * self.hidden if self._widens_router and self.trainable.trains_layer_weights else 0
        weights = (4 if routing.fp32_weights else element) + element * routing.keeps_choices
        inputs = self.trainable.keeps_input(*GATE_UP) * element * self.hidden
        each = element * self.hidden + _INDEX_BYTES + weights + routing.choice_bytes
        gate = element * (self.hidden + 1) if ffn.shared_gate and ffn.shared_width else 0
        return np.asarray(router + each * self.copies + inputs * self.computed + gate)

    @property
    def layer_bytes(self) -> float:
        """Bytes whatever the number of tokens: an fp32 copy of the router's weight, and the offsets of the experts."""
        ffn = self.block.ffn
        if isinstance(ffn, FeedForward):
            return 0.0
        return 4.0 * ffn.choices * (1 + self.hidden * self._widens_router)

    @property
    def _widens_router(self) -> bool:
        return self.code.routing.fp32 and self.element < 4

    def _expert_tensors(self, ffn: MixtureOfExperts) -> int:
        return (_CLAMPED_TENSORS if ffn.clamped else _kept_tensors("kernel", gated=ffn.gated)) - self._unread_result(
            "kernel"
        )

    def _unread_result(self, activation: Activation) -> int:
        """1 where no gradient reads the result: that of a frozen last matmul without an adapter, and of any activation but
        ReLU alone, which reads its own."""
        return int(not self.trainable.keeps_input("down_proj") and (activation != "relu" or self.block.ffn.gated))

    def _activated(self, activation: Activation, width: int, *, gated: bool) -> Array:
        kept = self.element * (_kept_tensors(activation, gated=gated) - self._unread_result(activation))
        return np.asarray(kept * width / np.asarray(self.tp, dtype=float))


def _kept_tensors(activation: Activation, *, gated: bool) -> int:
    """Return how many tensors are kept, the result, which the last matmul reads, among them."""
    return _ACTIVATION_TENSORS[activation] + (3 if gated else 1)
