"""Context parallelism: the exchange by which every query sees the keys and values of the whole sequence.

Each of cp ranks holds 1/cp of the tokens, in zig-zag order. Of the 2 cp chunks of a sequence, rank r holds the r-th
from the front and the r-th from the back. Causal attention is then equally much work on each (Llama 3, arXiv
2407.21783, section 3.3.2). Keys and values travel before grouped heads are repeated, unless the software repeats them
before attention (`Stack.repeats_heads`). Latent ones travel as the heads that they are projected up to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, exposed_beside
from shardwright.specs import CONTEXT_PARALLEL, Candidates, TrainingSpec, cp_group
from shardwright.specs.model import LatentAttention, MultiHeadAttention


class PassSeconds(NamedTuple):
    """Seconds of one layer's exchange in its forward and in its backward, (N,) each."""

    forward: Array
    backward: Array


@dataclass(frozen=True)
class ContextExchange:
    """The exchange of one layer for `tokens` (N,), the tokens of a rank, which are 1/cp of its microbatch."""

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    tokens: Array

    def pass_seconds(
        self, attention: MultiHeadAttention | LatentAttention, core_forward: Array, core_backward: Array
    ) -> PassSeconds:
        """Return the seconds that compute does not hide.

        `core_forward`, `core_backward` (N,): seconds of attention over all blocks of the rank.
        """
        if (self.candidates.cp == 1).all():  # cp is 1 in most searches: skip the cost of the rest
            return PassSeconds(np.zeros(len(self.candidates)), np.zeros(len(self.candidates)))
        keys_values = self.local_key_value_bytes(attention)
        by_name = {
            "all-gather": self._gathered(keys_values),
            "ring": self._passed_on(keys_values, core_forward, core_backward),
            "ulysses": self._traded(attention, keys_values),
        }
        chosen = [self.candidates.context_parallel == index for index in range(len(CONTEXT_PARALLEL))]
        alone = self.candidates.cp == 1
        forward = np.select([alone, *chosen], [0.0, *(by_name[name].forward for name in CONTEXT_PARALLEL)])
        backward = np.select([alone, *chosen], [0.0, *(by_name[name].backward for name in CONTEXT_PARALLEL)])
        return PassSeconds(forward, backward)

    def working_bytes(self, attention: MultiHeadAttention | LatentAttention) -> Array:
        """(N,): bytes in use beside a backward: keys and values of other ranks and their
        gradients, of all ranks or of one block."""
        keys_values = 2.0 * self.local_key_value_bytes(attention)
        blocks = np.where(
            self.candidates.context_parallel == CONTEXT_PARALLEL.index("all-gather"), self.candidates.cp, 2
        )
        return np.asarray(np.where(self.candidates.cp > 1, keys_values * blocks, 0.0))

    def local_key_value_bytes(self, attention: MultiHeadAttention | LatentAttention) -> Array:
        """(N,): bytes of keys and values of the rank's own tokens and heads."""
        heads = attention.heads if self.training.software.repeats_heads else attention.kv_heads
        width = heads * (attention.head_size + attention.value_head_size)
        return self._element_bytes * self.tokens * width / self.candidates.tp

    @property
    def _element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    def _gathered(self, keys_values: Array) -> PassSeconds:
        """All-gather: every rank gathers all keys and values before attention. The backward
        repeats this and reduce-scatters gradients."""
        group, whole = cp_group(self.candidates, self.times.node), keys_values * self.candidates.cp
        gather = self.times.collective_seconds("all_gather", whole, group)
        return PassSeconds(gather, gather + self.times.collective_seconds("reduce_scatter", whole, group))

    def _passed_on(self, keys_values: Array, core_forward: Array, core_backward: Array) -> PassSeconds:
        """Ring: cp - 1 times a block goes to the next rank while attention works on the block before.

        In the backward its gradient travels with it.
        """
        group = cp_group(self.candidates, self.times.node)

        def exposed(size_bytes: Array, core: Array) -> Array:
            block, send = core / self.candidates.cp, self.times.collective_seconds("send", size_bytes, group)
            each = exposed_beside(self.times.node.device, self.times.constants, block, send).network
            return np.asarray((self.candidates.cp - 1) * each)

        return PassSeconds(exposed(keys_values, core_forward), exposed(2.0 * keys_values, core_backward))

    def _traded(self, attention: MultiHeadAttention | LatentAttention, keys_values: Array) -> PassSeconds:
        """Ulysses: queries, keys and values go to the ranks of their heads, and the output comes back.

        In the backward the gradients of all four make the same way. Where ranks are more than KV heads, each head goes to
        several of them.
        """
        keys_values = keys_values * np.maximum(1.0, self.candidates.cp * self.candidates.tp / attention.kv_heads)
        group, heads = cp_group(self.candidates, self.times.node), attention.heads / self.candidates.tp
        query = self._element_bytes * self.tokens * heads * attention.head_size
        output = self._element_bytes * self.tokens * heads * attention.value_head_size
        there = self.times.collective_seconds("all_to_all", query + keys_values, group)
        both = there + self.times.collective_seconds("all_to_all", output, group)
        return PassSeconds(both, both)
