"""Context parallelism: what it takes until every query has seen the keys and values of the whole sequence.

Each of cp ranks holds 1/cp of the tokens, dealt in zig-zag (rank r of cp the 2 cp chunks' r-th from the front and from the back), so that
causal attention is as much work on each (Llama 3, arXiv 2407.21783, section 3.3.2). Keys and values travel as they
are before grouped heads are repeated, latent ones as the heads that they are projected up to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, exposed_beside
from shardwright.specs import CONTEXT_PARALLEL, Candidates, ClusterSpec, TrainingSpec, cp_group
from shardwright.specs.model import LatentAttention, MultiHeadAttention


class PassSeconds(NamedTuple):
    """Seconds that one layer's forward and backward spend on the exchange, each (N,)."""

    forward: Array
    backward: Array


@dataclass(frozen=True)
class ContextExchange:
    """The exchange of one layer for `tokens` (N,): those of a rank, 1/cp of its microbatch."""

    cluster: ClusterSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    tokens: Array

    def pass_seconds(
        self, attention: MultiHeadAttention | LatentAttention, core_forward: Array, core_backward: Array
    ) -> PassSeconds:
        """Where compute does not hide it. `core_forward`, `core_backward` (N,): attention of all the rank's blocks."""
        if (self.candidates.cp == 1).all():  # as in every search, which then need not pay for it
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
        """In use beside a backward, (N,): other ranks' keys and values with their gradients, all of them or one block's."""
        keys_values = 2.0 * self.local_key_value_bytes(attention)
        blocks = np.where(
            self.candidates.context_parallel == CONTEXT_PARALLEL.index("all-gather"), self.candidates.cp, 2
        )
        return np.asarray(np.where(self.candidates.cp > 1, keys_values * blocks, 0.0))

    def local_key_value_bytes(self, attention: MultiHeadAttention | LatentAttention) -> Array:
        """Keys and values of the rank's own tokens and heads, (N,)."""
        width = attention.kv_heads * (attention.head_size + attention.value_head_size)
        return self._element_bytes * self.tokens * width / self.candidates.tp

    @property
    def _element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    def _gathered(self, keys_values: Array) -> PassSeconds:
        """Before attention every rank gathers all; backward gathers them again and reduce-scatters their gradients."""
        group, whole = cp_group(self.candidates, self.cluster), keys_values * self.candidates.cp
        gather = self.times.collective_seconds("all_gather", whole, group)
        return PassSeconds(gather, gather + self.times.collective_seconds("reduce_scatter", whole, group))

    def _passed_on(self, keys_values: Array, core_forward: Array, core_backward: Array) -> PassSeconds:
        """cp - 1 times a block goes to the next rank beside the attention of the block before; backward with its gradient."""
        group = cp_group(self.candidates, self.cluster)

        def exposed(size_bytes: Array, core: Array) -> Array:
            block, send = core / self.candidates.cp, self.times.collective_seconds("send", size_bytes, group)
            each = exposed_beside(self.cluster, self.times.constants, block, send).network
            return np.asarray((self.candidates.cp - 1) * each)

        return PassSeconds(exposed(keys_values, core_forward), exposed(2.0 * keys_values, core_backward))

    def _traded(self, attention: MultiHeadAttention | LatentAttention, keys_values: Array) -> PassSeconds:
        """Queries, keys and values to the ranks of their heads, the output back; backward the gradients of all four."""
        group, heads = cp_group(self.candidates, self.cluster), attention.heads / self.candidates.tp
        query = self._element_bytes * self.tokens * heads * attention.head_size
        output = self._element_bytes * self.tokens * heads * attention.value_head_size
        there = self.times.collective_seconds("all_to_all", query + keys_values, group)
        both = there + self.times.collective_seconds("all_to_all", output, group)
        return PassSeconds(both, both)
