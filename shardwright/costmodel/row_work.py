"""What one row of the cost tables (a layer, the embedding, the head) does on its rank, before data parallelism."""

from dataclasses import dataclass

import numpy as np

from . import constants, operators
from .candidates import Candidates, tp_group
from .cluster import ClusterSpec
from .model import Block, ModelSpec, Parameter
from .op_times import Array, OpTimes
from .tables import POLICIES
from .training import TrainingSpec


@dataclass(frozen=True)
class RowWork:
    """Work of one microbatch. Shapes (N,), with a last axis of recompute policies where the name says `by_policy`.

    `weight_gradient_seconds` is part of `backward_seconds`. Seconds are of the device alone; `parameters` counts what one tp rank holds.
    """

    forward_seconds: Array
    backward_seconds: Array
    weight_gradient_seconds: Array
    recompute_seconds_by_policy: Array
    tensor_parallel_seconds: Array
    tensor_parallel_recompute_seconds_by_policy: Array
    activation_bytes_by_policy: Array
    working_bytes_by_policy: Array
    parameters: Array


@dataclass(frozen=True)
class WorkModel:
    """Builds `RowWork` for every candidate at once. Symbols as in operators.py."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates

    @property
    def _tokens(self) -> Array:
        return self.candidates.micro_batch * float(self.training.seq_len)

    @property
    def _sequence_split(self) -> Array:
        return np.where(self.candidates.sequence_parallel == 1, self.candidates.tp, 1)

    @property
    def _element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    def layer(self, block: Block) -> RowWork:
        """One transformer layer."""
        tokens, tp, hidden = self._tokens, self.candidates.tp, self.model.hidden_size
        core_forward, core_backward = self._attention_core_seconds(block)
        matmuls = [
            *operators.attention_matmuls(block, hidden, tokens, tp),
            *operators.ffn_matmuls(block, hidden, tokens, tp),
        ]
        moved = (
            self._element_bytes
            * tokens
            * (
                hidden * operators.hidden_elements(block) / self._sequence_split
                + operators.inner_elements(block, hidden) / tp
            )
        )
        forward_busy = self._forward_seconds(matmuls) + core_forward + self.times.memory_bound_seconds(moved)
        backward_busy = self._backward_seconds(matmuls) + core_backward + self.times.memory_bound_seconds(2 * moved)
        forward = self.times.with_launches_seconds(forward_busy, constants.KERNELS_PER_LAYER_FORWARD.value)
        backward = self.times.with_launches_seconds(backward_busy, constants.KERNELS_PER_LAYER_BACKWARD.value)
        exposed = self._layer_tensor_parallel_seconds(block)
        zero = np.zeros_like(forward)
        kept, working = self._layer_bytes(block)
        return RowWork(
            forward_seconds=forward,
            backward_seconds=backward,
            weight_gradient_seconds=self._weight_gradient_seconds(matmuls),
            recompute_seconds_by_policy=_policies(none=zero, selective=self._core_again(core_forward), full=forward),
            tensor_parallel_seconds=exposed,
            tensor_parallel_recompute_seconds_by_policy=_policies(none=zero, selective=zero, full=exposed),
            activation_bytes_by_policy=kept,
            working_bytes_by_policy=working,
            parameters=self._local_parameters(block.parameters(hidden)),
        )

    def embedding(self) -> RowWork:
        """Token and position embedding: a gather forward, a dense gradient backward."""
        hidden_bytes = self._element_bytes * self._tokens * self.model.hidden_size
        parameters = self._local_parameters(self.model.embedding_parameters())
        backward = self.times.memory_bound_seconds(hidden_bytes + 3.0 * self._element_bytes * parameters)
        kept = 8.0 * self._tokens
        return self._end(
            forward=self.times.memory_bound_seconds(2 * hidden_bytes),
            backward=backward,
            weight_gradient=backward,
            parameters=parameters,
            kept=kept,
            working=self._element_bytes * parameters,
            collectives=1,
        )

    def head(self) -> RowWork:
        """Final norm, LM head and loss. The head's own copy of a tied embedding counts where the two are apart (pp > 1)."""
        tokens, hidden, element = self._tokens, self.model.hidden_size, self._element_bytes
        vocabulary = np.ceil(self.model.vocab_size / self.candidates.tp)
        matmuls = [operators.Matmul(tokens, hidden, vocabulary)]
        logits = tokens * vocabulary
        moved = element * tokens * hidden * 6.0 / self._sequence_split
        loss = self.times.memory_bound_seconds(constants.LOSS_BYTES_PER_LOGIT.value * logits + 3 * moved)
        apart = 1.0 if not self.model.tied_embeddings else np.where(self.candidates.pp > 1, 1.0, 0.0)
        parameters = self._local_parameters(self.model.head_parameters()) * apart
        return self._end(
            forward=self._forward_seconds(matmuls) + loss / 2,
            backward=self._backward_seconds(matmuls) + loss / 2,
            weight_gradient=self._weight_gradient_seconds(matmuls),
            parameters=parameters,
            kept=4.0 * logits + tokens * hidden * ((4.0 + element) / self._sequence_split + element),
            working=(4.0 + element) * logits,
            collectives=1,
        )

    def _end(
        self,
        *,
        forward: Array,
        backward: Array,
        weight_gradient: Array,
        parameters: Array,
        kept: Array,
        working: Array,
        collectives: int,
    ) -> RowWork:
        nothing = _policies(none=np.zeros_like(kept), selective=np.zeros_like(kept), full=np.zeros_like(kept))
        hidden_bytes = self._element_bytes * self._tokens * self.model.hidden_size
        return RowWork(
            forward_seconds=forward,
            backward_seconds=backward,
            weight_gradient_seconds=weight_gradient,
            recompute_seconds_by_policy=nothing,
            tensor_parallel_seconds=collectives * self._hidden_collective_seconds(hidden_bytes),
            tensor_parallel_recompute_seconds_by_policy=nothing,
            activation_bytes_by_policy=_policies(none=kept, selective=kept, full=kept),
            working_bytes_by_policy=_policies(none=working, selective=working, full=working),
            parameters=parameters,
        )

    def _forward_seconds(self, matmuls: list[operators.Matmul]) -> Array:
        return sum(
            (self.times.matmul_seconds(w.m, w.k, w.n, groups=w.groups) for w in matmuls), np.zeros(len(self.candidates))
        )

    def _backward_seconds(self, matmuls: list[operators.Matmul]) -> Array:
        """The gradient of the input, (m, n) (n, k), and of the weight."""
        inputs = (self.times.matmul_seconds(w.m, w.n, w.k, groups=w.groups) for w in matmuls)
        return sum(inputs, self._weight_gradient_seconds(matmuls))

    def _weight_gradient_seconds(self, matmuls: list[operators.Matmul]) -> Array:
        """(k, m) (m, n) of each."""
        weights = (self.times.matmul_seconds(w.k, w.m, w.n, groups=w.groups) for w in matmuls)
        return sum(weights, np.zeros(len(self.candidates)))

    def _attention_core_seconds(self, block: Block) -> tuple[Array, Array]:
        """Forward and backward of scores, softmax and weighted values; fused kernels compute the causal half only."""
        tokens, tp, attention = self._tokens, self.candidates.tp, block.attention
        if self.training.attention == "flash":
            flops = operators.attention_core_flops(block, self.training, tokens, tp, causal=True)
            # Dao 2023 (FlashAttention-2), section 4.1: five matmuls backward for two forward.
            return (
                self.times.attention_seconds(flops, head_size=attention.head_size, backward=False),
                self.times.attention_seconds(2.5 * flops, head_size=attention.head_size, backward=True),
            )
        batched = self.candidates.micro_batch * attention.heads / tp
        length = float(self.training.seq_len)
        matmuls = [
            operators.Matmul(length, attention.head_size, length, batched),
            operators.Matmul(length, length, attention.value_head_size, batched),
        ]
        scores = self._element_bytes * batched * length**2
        softmax_forward, softmax_backward = 6.0 * scores, 8.0 * scores
        return (
            self._forward_seconds(matmuls) + self.times.memory_bound_seconds(softmax_forward),
            self._backward_seconds(matmuls) + self.times.memory_bound_seconds(softmax_backward),
        )

    def _core_again(self, core_forward: Array) -> Array:
        """What selective recompute repeats: nothing where a fused kernel never keeps the scores."""
        return core_forward if self.training.attention == "unfused" else np.zeros_like(core_forward)

    def _hidden_collective_seconds(self, size_bytes: Array) -> Array:
        """One gather and one reduce-scatter of the hidden states (sequence parallel), or the all-reduce they replace."""
        group = tp_group(self.candidates, self.cluster)
        split = self.times.collective_seconds("all_gather", size_bytes, group) + self.times.collective_seconds(
            "reduce_scatter", size_bytes, group
        )
        whole = self.times.collective_seconds("all_reduce", size_bytes, group)
        return np.where(self.candidates.sequence_parallel == 1, split, whole)

    def _layer_tensor_parallel_seconds(self, block: Block) -> Array:
        """Forward of one layer, equal to its backward (Korthikanti et al. 2022, section 4.2.2): one pair a sublayer."""
        pairs = 1 if block.parallel else 2
        return pairs * self._hidden_collective_seconds(self._element_bytes * self._tokens * self.model.hidden_size)

    def _layer_bytes(self, block: Block) -> tuple[Array, Array]:
        """Bytes kept per microbatch and bytes in use during its backward, by policy."""
        tokens, tp, hidden, element = self._tokens, self.candidates.tp, self.model.hidden_size, self._element_bytes
        plain = tokens * operators.saved_bytes(block, self.training, hidden, tp, self._sequence_split)
        core = np.zeros_like(plain)
        if self.training.attention == "unfused":
            core = tokens * operators.score_bytes(block, self.training, tp)
        boundary = element * tokens * hidden / self._sequence_split
        gradients = element * tokens * (2.0 * hidden + 3.0 * block.ffn.active_width / tp) + core
        kept = _policies(none=plain + core, selective=plain, full=boundary)
        working = _policies(none=gradients, selective=gradients + core, full=gradients + plain + core)
        return kept, working

    def _local_parameters(self, parameters: list[Parameter]) -> Array:
        """Elements that one tp rank holds."""
        split = sum(p.elements for p in parameters if p.split)
        whole = sum(p.elements for p in parameters if not p.split)
        return split / self.candidates.tp + whole


def _policies(*, none: Array, selective: Array, full: Array) -> Array:
    by_name = {"none": none, "selective": selective, "full": full}
    return np.stack([by_name[policy] for policy in POLICIES], axis=-1)
