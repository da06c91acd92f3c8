"""Context parallelism: the exchange by which every query sees the keys and values of the whole sequence.

Each of cp ranks holds 1/cp of the tokens, in zig-zag order. Of the 2 cp chunks of a sequence, rank r holds the r-th
from the front and the r-th from the back. Causal attention is then equally much work on each (Llama 3, arXiv
2407.21783, section 3.3.2). Keys and values travel before grouped heads are repeated, unless the software repeats them
before attention (`Stack.repeats_heads`). Latent ones travel as the heads that they are projected up to.

Ulysses and a ring combine: neighbouring ranks trade heads, and each rank passes keys and values on to the same rank of the next
group (Fang & Zhao 2024, arXiv 2405.07719).

torch attends to one block after the other even where it has gathered all (`Stack.merges_partial_results` "fp32"); other
gathers are followed by one attention. This project's executor ("fp32-in-rings") keeps what it gathered for the backward. What sums over blocks cost is in partial_results.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, exposed_beside
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    CONTEXT_PARALLEL,
    Candidates,
    NodeGroup,
    RankGroup,
    TrainingSpec,
    cp_group,
    ring_group,
    ulysses_group,
)
from shardwright.specs.model import AnyAttention, LatentAttention

from .partial_results import LocalElements, gradient_bytes_per_element, merging_bytes


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

    def pass_seconds(self, attention: AnyAttention, core_forward: Array, core_backward: Array) -> PassSeconds:
        """Return the seconds that compute does not hide.

        `core_forward`, `core_backward` (N,): seconds of attention over all blocks of the rank.
        """
        if (self.candidates.cp == 1).all():  # cp is 1 in most searches: skip the cost of the rest
            return PassSeconds(np.zeros(len(self.candidates)), np.zeros(len(self.candidates)))
        keys_values = self.local_key_value_bytes(attention)
        ring = self._passed_on(attention, keys_values * self._repeated(attention), core_forward, core_backward)
        by_name = {
            "all-gather": self._all_at_once(attention, keys_values, core_forward, core_backward),
            "ring": ring,
            "ulysses": self._traded(attention, keys_values, self.candidates.cp, cp_group),
            "ulysses-ring": self._both(ring, attention, keys_values),
        }
        chosen = [self.candidates.context_parallel == index for index in range(len(CONTEXT_PARALLEL))]
        alone = self.candidates.cp == 1
        forward = np.select([alone, *chosen], [0.0, *(by_name[name].forward for name in CONTEXT_PARALLEL)])
        backward = np.select([alone, *chosen], [0.0, *(by_name[name].backward for name in CONTEXT_PARALLEL)])
        return PassSeconds(forward, backward)

    def working_bytes(self, attention: AnyAttention) -> Array:
        """(N,): bytes in use beside a backward: keys and values of other ranks and their gradients, of all ranks or of one
        block. Sums in fp32 are one block of gradients, another one that travels, and the gradient of the queries."""
        keys_values = self.local_key_value_bytes(attention) * self._repeated(attention)
        gathers = self.candidates.context_parallel == CONTEXT_PARALLEL.index("all-gather")
        blocks = np.where(gathers, self.candidates.cp, 2)
        gradients = keys_values * blocks
        if self.training.software.merges_partial_results != "fused":
            sums = 2 * self._gradient_share * keys_values + BYTES_PER_ELEMENT["fp32"] * self._local(attention).queries
            at_once = self.candidates.context_parallel == CONTEXT_PARALLEL.index("ulysses")
            if self.training.software.merges_partial_results == "fp32-in-rings":
                at_once = at_once | gathers
            gradients = np.where(at_once, gradients, sums)
        return np.asarray(np.where(self.candidates.cp > 1, keys_values * blocks + gradients, 0.0))

    def kept_bytes(self, attention: AnyAttention) -> Array:
        """(N,): bytes that this project's executor ("fp32-in-rings") keeps of a layer beside those without cp.

        The output is copied into the layout of the next matmul. Before a fused kernel keys and values are copied for each query
        head (executor/context/attention.py, _attend). After a gather each of a rank's two chunks, r-th from the front and from the
        back, keeps all keys and values before its end: T (c + 1/2) tokens for T tokens on each of c = cp ranks.
        """
        if self.training.software.merges_partial_results != "fp32-in-rings" or (self.candidates.cp == 1).all():
            return np.zeros(len(self.candidates))
        element, chosen = self._element_bytes, self.candidates
        outputs, heads = self._local(attention).outputs, attention.heads / chosen.tp
        copies = element * self.tokens * heads * (attention.head_size + attention.value_head_size)
        own = self.local_key_value_bytes(attention)
        if isinstance(attention, LatentAttention):  # values are a view of what lies beside the plain elements of keys
            own = own + element * self.tokens * heads * attention.plain_size
        gathers = chosen.context_parallel == CONTEXT_PARALLEL.index("all-gather")
        trades = chosen.context_parallel == CONTEXT_PARALLEL.index("ulysses")
        repeated = np.select([gathers, trades], [copies * (chosen.cp + 0.5) - own, copies - own], 0.0)
        return np.where(chosen.cp > 1, element * outputs + repeated, 0.0)

    def local_key_value_bytes(self, attention: AnyAttention) -> Array:
        """(N,): bytes of keys and values of the rank's own tokens and heads."""
        heads = attention.heads if self.training.software.repeats_heads else attention.kv_heads
        width = heads * (attention.head_size + attention.value_head_size)
        return self._element_bytes * self.tokens * width / self.candidates.tp

    def _repeated(self, attention: AnyAttention) -> Array:
        """(N,): how many ranks that trade heads in front of a ring get the same KV head."""
        degree = self.candidates.ulysses_degree
        return np.where(degree > 1, np.maximum(1.0, degree * self.candidates.tp / attention.kv_heads), 1.0)

    @property
    def _element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def _gradient_share(self) -> float:
        """Bytes of an element of travelling gradients over those of keys and values."""
        return gradient_bytes_per_element(self.training.software, self._element_bytes) / self._element_bytes

    def _local(self, attention: AnyAttention) -> LocalElements:
        heads = self.tokens * attention.heads / self.candidates.tp
        keys_values = self.local_key_value_bytes(attention) / self._element_bytes
        return LocalElements(heads * attention.value_head_size, heads * attention.head_size, keys_values)

    def _all_at_once(
        self,
        attention: AnyAttention,
        keys_values: Array,
        core_forward: Array,
        core_backward: Array,
    ) -> PassSeconds:
        """All-gather: every rank gathers all keys and values, again in the backward, which reduce-scatters their gradients.

        torch gathers beside attention to the rank's own block, and passes the gradients on like a ring.
        """
        group, whole = cp_group(self.candidates, self.times.node), keys_values * self.candidates.cp
        gather = self.times.collective_seconds("all_gather", whole, group)
        merges = self.training.software.merges_partial_results
        if merges != "fp32":
            reduce = self.times.collective_seconds("reduce_scatter", whole, group)
            return PassSeconds(gather, reduce if merges == "fp32-in-rings" else gather + reduce)
        merging = self._merging_seconds(attention)
        forward = self._beside_a_block(gather, core_forward)
        passed = self._gradients_passed_on(0.0, keys_values, core_backward)
        backward = self._beside_a_block(gather, core_backward) + passed
        return PassSeconds(forward + merging.forward, backward + merging.backward)

    def _passed_on(
        self,
        attention: AnyAttention,
        keys_values: Array,
        core_forward: Array,
        core_backward: Array,
    ) -> PassSeconds:
        """Ring of n ranks: n - 1 times a block goes to the next rank while attention works on the block before.

        In the backward its gradient travels with it.
        """
        merging, others = self._merging_seconds(attention), self._blocks - 1
        forward = others * self._beside_a_block(self._send_seconds(keys_values), core_forward)
        backward = self._gradients_passed_on(keys_values, keys_values, core_backward)
        return PassSeconds(forward + merging.forward, backward + merging.backward)

    def _both(self, ring: PassSeconds, attention: AnyAttention, keys_values: Array) -> PassSeconds:
        """Ulysses in groups, then a `ring` across them. A rank then passes on as many bytes as it had: more tokens of fewer heads."""
        if (self.candidates.ulysses_degree == 1).all():  # most searches: skip the cost of the rest
            return ring
        traded = self._traded(attention, keys_values, self.candidates.ulysses_degree, ulysses_group)
        return PassSeconds(ring.forward + traded.forward, ring.backward + traded.backward)

    def _gradients_passed_on(self, beside_bytes: Array | float, keys_values: Array, core: Array) -> Array:
        """Seconds in which a ring of n ranks passes on n - 1 times a block's gradient with `beside_bytes` of keys and values.

        Transformer Engine adds what it gets in the block after. torch sends the sums once more, home, when no block is left.
        """
        gradient = self._gradient_share * keys_values
        beside = (self._blocks - 1) * self._beside_a_block(self._send_seconds(beside_bytes + gradient), core)
        if self.training.software.merges_partial_results == "fused":
            return np.asarray(beside)
        return np.asarray(beside + self._send_seconds(gradient))

    def _beside_a_block(self, network: Array, core: Array) -> Array:
        """The part of `network` that attention over one block does not hide; `core`: seconds over all of them."""
        block = core / self._blocks
        return exposed_beside(self.times.node.device, self.times.constants, block, network).network

    def _send_seconds(self, size_bytes: Array) -> Array:
        return self.times.collective_seconds("send", size_bytes, ring_group(self.candidates, self.times.node))

    def _merging_seconds(self, attention: AnyAttention) -> PassSeconds:
        blocks = np.maximum(self._blocks, 2)
        moved = merging_bytes(self.training.software, self._local(attention), self._element_bytes, blocks)
        return PassSeconds(*map(self.times.memory_bound_seconds, moved))

    @property
    def _blocks(self) -> Array:
        """(N,): blocks of keys and values that attention runs over one by one, and ranks of a ring."""
        return np.asarray(self.candidates.cp // self.candidates.ulysses_degree)

    def _traded(
        self,
        attention: AnyAttention,
        keys_values: Array,
        degree: Array,
        group_of: Callable[[Candidates, NodeGroup], RankGroup],
    ) -> PassSeconds:
        """Ulysses among `degree` ranks: queries, keys and values go to the ranks of their heads, and the output comes back.

        In the backward the gradients of all four make the same way. Where ranks are more than KV heads, each head goes to
        several of them.
        """
        keys_values = keys_values * np.maximum(1.0, degree * self.candidates.tp / attention.kv_heads)
        group, heads = group_of(self.candidates, self.times.node), attention.heads / self.candidates.tp
        query = self._element_bytes * self.tokens * heads * attention.head_size
        output = self._element_bytes * self.tokens * heads * attention.value_head_size
        there = self.times.collective_seconds("all_to_all", query + keys_values, group)
        both = there + self.times.collective_seconds("all_to_all", output, group)
        return PassSeconds(both, both)
