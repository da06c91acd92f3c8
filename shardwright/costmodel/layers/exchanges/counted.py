"""Exchanges over tp beside those of a layer's matmuls, one by one, as dry runs of this project's executor trace them.

Each rank of tp has a part of the vocabulary. The embedding's parts are summed in the forward pass, whole on every rank, because
learned positions are added to whole hidden states (executor/model/tensor_parallel.py, divide_embedding). The head needs the
whole sequence in the forward pass, and sums the gradients of its input in the backward pass. Where the sequence is divided, both
gather it once.

Every rank of tp holds a router and the tokens of its layer. Experts sum their outputs whole on every rank, and the gradients of
their inputs: hidden states, and weights of the chosen experts, in the format in which the family has them. Shared experts do the same, for each of their linears that
reads the input. Under sequence parallelism the layer gathers the sequence before, and in the backward pass the gradients of its
output (executor/model/tensor_parallel.py, of a region that does not share its input). Projections to latents are whole on every rank too, so that
the gradients of their results are summed in place of those of hidden states.

Every rank holds the weights of norms whole. Under sequence parallelism each computes with its part of the tokens, so that their
gradients are summed; so are those of norms of single heads, and of biases behind a sum over tp, in any case. So is A of an adapter
beside a linear that tp splits by columns, and B beside one that it splits by rows; of experts over the ranks that share them. Frozen weights have none. Where gradients are
reduced over data parallelism in each microbatch (ZeRO-2 and 3), they are summed then, in the compute format. Otherwise they are
summed once a step, in the format in which microbatches add up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import CollectiveName, OpTimes
from shardwright.specs import Candidates, Precision, expert_tp_group, tp_group
from shardwright.specs.model import Block, FeedForward, LatentAttention, MixtureOfExperts, Parameter

_OF_HIDDEN_STATES = ("norm.", "head.norm")
_OF_PARTS = ("attention.qk_norm", "attention.output_bias", "ffn.down_bias")
_TENSORS = {"attention.qk_norm": 2}
"""Tensors that a parameter of the cost model stands for: norms of queries and of keys."""


class EndSeconds(NamedTuple):
    """Seconds of an end's exchanges in its forward and in its backward, (N,) each."""

    forward: Array
    backward: Array


class LayerSeconds(NamedTuple):
    """Seconds of a layer's exchanges in its forward, in its backward, and again where all of the forward is repeated, (N,) each.

    What is repeated ends before the last sum, whose result no gradient needs.
    """

    forward: Array
    backward: Array
    repeated: Array

    def plus(self, other: "LayerSeconds") -> "LayerSeconds":
        return LayerSeconds(*(own + more for own, more in zip(self, other, strict=True)))


class SummedGradients(NamedTuple):
    """Seconds of summing gradients over tp, as a microbatch makes them, and as several add up, (N,) each."""

    made: Array
    added: Array


class CountedExchanges(NamedTuple):
    """Seconds of single exchanges over tp; `hidden_bytes` (N,): the hidden states of a microbatch, whole."""

    times: OpTimes
    candidates: Candidates
    hidden_bytes: Array

    @property
    def embedding(self) -> EndSeconds:
        return EndSeconds(self._seconds("all_reduce", self.hidden_bytes), self._gather)

    @property
    def head(self) -> EndSeconds:
        return EndSeconds(self._gather, self.reduction)

    def layer(self, block: Block, pair: Array, hidden: int, weight_bytes: Array, tiles: int) -> LayerSeconds:
        """A layer; `pair` (N,): seconds of a gather and a reduction of hidden states of `hidden` columns, `weight_bytes` (N,): of one chosen
        expert's weight for each token of a microbatch, `tiles`: of a dense feed-forward."""
        if isinstance(block.ffn, FeedForward) or block.parallel:
            # attention and feed-forward are divided one by one, also where both read the layer's input
            exchanged = self.dense_layer(pair, block.has_attention + block.has_ffn, tiles)
        else:
            exchanged = self.expert_layer(block.ffn, block.has_attention * pair, weight_bytes * block.ffn.top_k)
        if not isinstance(block.attention, LatentAttention):
            return exchanged
        instead = self.latent_gradients(block.attention, hidden) - self.reduction
        return exchanged._replace(backward=exchanged.backward + instead)

    def dense_layer(self, pair: Array, sublayers: int, tiles: int = 1) -> LayerSeconds:
        """One `pair` for each of `sublayers`.

        A feed-forward in `tiles` sums its output for each of them, and gathers the gradient of each; its input is gathered whole.
        """
        both, piece = sublayers * pair, self.reduction_of(1 / tiles)
        forward = both - self.reduction + tiles * piece
        backward = both - self._gather + tiles * self._gather_of(1 / tiles)
        return LayerSeconds(forward, backward, forward - piece)

    def expert_layer(self, ffn: MixtureOfExperts, pair: Array, weight_bytes: Array) -> LayerSeconds:
        """A layer of experts; `pair` is that of attention, `weight_bytes` (N,) those of the chosen experts of a microbatch.

        A layer that runs again leaves out its last sum, unless the gate of the shared experts reads it.
        """
        whole = self._seconds("all_reduce", self.hidden_bytes)
        weights = self._seconds("all_reduce", weight_bytes)
        outputs, inputs = (1, 1 + ffn.gated) if ffn.shared_width else (0, 0)
        forward = pair + self._gather + (1 + outputs) * whole
        backward = pair + self._gather + (1 + inputs) * whole + weights
        return LayerSeconds(forward, backward, forward if ffn.shared_gate else forward - whole)

    def experts_again(self, ffn: MixtureOfExperts) -> Array:
        """(N,): sums that experts repeat where they alone run again: up to the last tensor that a backward reads, which is the shared
        experts' sum where a gate weighs it, their inner columns where none does, and else the input of the routed experts' sum."""
        sums = 1 + ffn.shared_gate if ffn.shared_width else 0
        return sums * self._seconds("all_reduce", self.hidden_bytes)

    def latent_gradients(self, attention: LatentAttention, hidden: int) -> Array:
        """(N,): sums of gradients in the backward pass of latent attention, in place of that of its input: of what its divided
        projections read, latents of keys and values and of queries (or hidden states), and of the rotary part of all heads' keys."""
        widths = (attention.kv_rank, attention.rotary_size, attention.query_rank or hidden)
        return np.asarray(sum(self._seconds("all_reduce", self.hidden_bytes * (width / hidden)) for width in widths))

    @property
    def reduction(self) -> Array:
        """(N,): summing partial hidden states: each rank gets its part of the sequence, or the whole."""
        return self.reduction_of(1)

    def reduction_of(self, share: float) -> Array:
        """(N,): the same of a share of the tokens."""
        split = self._seconds("reduce_scatter", share * self.hidden_bytes)
        return np.where(self._divides_sequence, split, self._seconds("all_reduce", share * self.hidden_bytes))

    def summed_gradients(self, weights: Sequence[Parameter], precision: Precision) -> SummedGradients:
        """One all-reduce for each of `weights` that every rank holds whole and computes with a part of what it acts on."""

        split = [float(weight.elements) for weight in weights if weight.name.startswith(_OF_HIDDEN_STATES)]
        whole = [weight for weight in weights if weight.name.startswith(_OF_PARTS) and not weight.split]
        tensors = [(weight.elements, _TENSORS.get(weight.name, 1)) for weight in whole]
        parts = [elements / count for elements, count in tensors for _ in range(count)]
        of_tokens, of_parts = self.summed_matrices(split, precision), self.summed_matrices(parts, precision)
        return SummedGradients(
            *(
                np.where(self._divides_sequence, tokens, 0.0) + part
                for tokens, part in zip(of_tokens, of_parts, strict=True)
            )
        )

    def summed_matrices(
        self, elements: Sequence[Number], precision: Precision, of_experts: Sequence[Number] = ()
    ) -> SummedGradients:
        """One all-reduce for each of matrices with so many `elements`; `of_experts`: over the ranks that share an expert."""
        node, sharing = self.times.node, self.candidates.expert_tp
        over_experts = expert_tp_group(self.candidates, node)

        def seconds(element_bytes: int) -> Array:
            each = [self._seconds("all_reduce", np.asarray(element_bytes * count, dtype=float)) for count in elements]
            for count in of_experts:
                size = np.asarray(element_bytes * count + 0 * sharing, dtype=float)
                each.append(self.times.collective_seconds("all_reduce", size, over_experts))
            return np.asarray(sum(each, np.zeros(len(self.candidates))))

        return SummedGradients(
            seconds(precision.activation_bytes_per_element), seconds(precision.gradient_bytes_per_element)
        )

    @property
    def _divides_sequence(self) -> Array:
        return np.asarray(self.candidates.sequence_parallel == 1)

    @property
    def _gather(self) -> Array:
        """(N,): gathering the hidden states; none where every rank holds them whole."""
        return self._gather_of(1)

    def _gather_of(self, share: float) -> Array:
        return np.where(self._divides_sequence, self._seconds("all_gather", share * self.hidden_bytes), 0.0)

    def _seconds(self, name: CollectiveName, size_bytes: Array) -> Array:
        return self.times.collective_seconds(name, size_bytes, tp_group(self.candidates, self.times.node))
