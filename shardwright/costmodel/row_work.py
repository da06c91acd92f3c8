"""What one row of the cost tables (a layer, the embedding, the head) does on its rank, before data parallelism."""

from dataclasses import dataclass

import numpy as np

from . import operators
from .candidates import Candidates, tp_group
from .cluster import ClusterSpec
from .constants import Value
from .context_parallel import ContextExchange
from .expert_parallel import ExpertExchange, expert_split, hidden_pairs, spread_parameters
from .model import Block, FeedForward, ModelSpec, Parameter
from .op_times import Array, OpTimes
from .selective_recompute import selection
from .stack import Stack
from .tables import POLICIES
from .training import TrainingSpec
from .weight_matmuls import WeightMatmuls

# Forward: the logits twice, for the largest and for the sum; backward: read once more, their gradient written over them.
_FUSED_LOSS_BYTES_PER_LOGIT = 8.0


# Words of a rank's part of a padded vocabulary come in multiples of this (Megatron-LM, make-vocab-size-divisible-by).
_VOCABULARY_BLOCK = 128


@dataclass(frozen=True)
class RowWork:
    """Work of one microbatch. Shapes (N,), with a last axis of recompute policies where the name says `by_policy`.

    `weight_gradient_seconds` is part of `backward_seconds`. Seconds are of the device alone. `parameters` counts what one
    tp rank holds, but for experts that lie on the ranks of ep: `expert_parameters`.
    """

    forward_seconds: Array
    backward_seconds: Array
    weight_gradient_seconds: Array
    recompute_seconds_by_policy: Array
    tensor_parallel_forward_seconds: Array
    tensor_parallel_backward_seconds_by_policy: Array
    context_parallel_forward_seconds: Array
    context_parallel_backward_seconds_by_policy: Array
    expert_parallel_forward_seconds: Array
    expert_parallel_backward_seconds_by_policy: Array
    activation_bytes_by_policy: Array
    working_bytes_by_policy: Array
    parameters: Array
    expert_parameters: Array


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
        """Of one microbatch on one rank: cp ranks share each sequence."""
        return self.candidates.micro_batch * float(self.training.seq_len) / self.candidates.cp

    @property
    def _experts(self) -> operators.ExpertSplit:
        return expert_split(self.candidates, self.training)

    @property
    def _sequence_split(self) -> Array:
        return np.where(self.candidates.sequence_parallel == 1, self.candidates.tp, 1)

    @property
    def _stack(self) -> Stack:
        return self.training.software

    @property
    def _element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    def rows(self) -> list[RowWork]:
        """Every row of the cost tables, in their order."""
        return [*(self.layer(block) for block in self.model.layer_classes), self.embedding(), self.head()]

    def layer(self, block: Block) -> RowWork:
        """One transformer layer."""
        tokens, tp, hidden = self._tokens, self.candidates.tp, self.model.hidden_size
        core_forward, core_backward = self._attention_core_seconds(block)
        matmuls = [
            *operators.attention_matmuls(block, hidden, tokens, tp),
            *operators.ffn_matmuls(block, hidden, tokens, tp, self._experts),
        ]
        moved = self._moved_bytes(operators.forward_traffic(block, self.model, self._stack, self._experts))
        moved_backward = self._moved_bytes(operators.backward_traffic(block, self.model, self._stack, self._experts))
        linear = self._linear
        forward_busy = linear.forward_seconds(matmuls) + core_forward + self.times.memory_bound_seconds(moved)
        backward_busy = linear.backward_seconds(matmuls) + core_backward
        backward_busy = backward_busy + self.times.memory_bound_seconds(moved_backward)
        forward = self.times.with_launches_seconds(forward_busy, self._stack.kernels_forward)
        backward = self.times.with_launches_seconds(backward_busy, self._stack.kernels_backward)
        collectives = self._layer_tensor_parallel_seconds(block)
        exposed_backward = self._exposed_seconds(collectives, backward)
        context = ContextExchange(self.cluster, self.training, self.times, self.candidates, tokens)
        exchanged = context.pass_seconds(block.attention, core_forward, core_backward)
        # beside what hides it, and beside the host's launches where these are what a pass waits for
        context_forward = (
            self.times.with_launches_seconds(forward_busy + exchanged.forward, self._stack.kernels_forward) - forward
        )
        context_backward = (
            self.times.with_launches_seconds(backward_busy + exchanged.backward, self._stack.kernels_backward)
            - backward
        )
        exchange = ExpertExchange(self.cluster, self.training, self.times, self.candidates, tokens, hidden)
        traded = exchange.pass_seconds(block.ffn)
        zero = np.zeros_like(forward)
        chosen = selection(block, self.training, hidden, tokens, tp, self._sequence_split, self._experts)
        if chosen is None:
            again, gathers_again = self._core_again(core_forward), zero
        else:
            again = linear.forward_seconds(chosen.repeated) + self.times.memory_bound_seconds(moved)
            gathers_again = self._exposed_seconds(collectives / 2, again)  # what was reduced is kept
        kept, working = self._layer_bytes(block, None if chosen is None else chosen.kept_bytes)
        working = working + context.working_bytes(block.attention)[:, None]
        weights = block.parameters(hidden)
        spread = spread_parameters(weights, self.candidates)
        whole = forward
        # the router's gradient reads what experts put out, so their last matmul is needed again
        if self._stack.stops_recompute_early and isinstance(block.ffn, FeedForward):
            whole = self.times.with_launches_seconds(
                forward_busy - linear.forward_seconds(matmuls[-1:]), self._stack.kernels_forward
            )
        return RowWork(
            forward_seconds=forward,
            backward_seconds=backward,
            weight_gradient_seconds=linear.weight_gradient_seconds(matmuls),
            recompute_seconds_by_policy=_policies(none=zero, selective=again, full=whole),
            tensor_parallel_forward_seconds=self._exposed_seconds(collectives, forward),
            tensor_parallel_backward_seconds_by_policy=_policies(
                none=exposed_backward,
                selective=exposed_backward + gathers_again,
                full=exposed_backward + self._exposed_seconds(collectives, whole),
            ),
            context_parallel_forward_seconds=context_forward,
            context_parallel_backward_seconds_by_policy=_repeated_when_full(context_forward, context_backward),
            expert_parallel_forward_seconds=traded,
            expert_parallel_backward_seconds_by_policy=_repeated_when_full(traded, traded),
            activation_bytes_by_policy=kept,
            working_bytes_by_policy=working,
            parameters=self._local_parameters([p for p in weights if not p.expert])
            + np.where(spread > 0, 0.0, self._local_parameters([p for p in weights if p.expert])),
            expert_parameters=spread,
        )

    def _moved_bytes(self, traffic: operators.Traffic) -> Array:
        split = traffic.hidden / self._sequence_split + traffic.inner / self.candidates.tp
        return np.asarray(self._element_bytes * self._tokens * split)

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
        saved = 4.0 if self._stack.fp32_logit_copies else float(element)  # the softmax, from forward to backward
        block = _VOCABULARY_BLOCK if self._stack.pads_vocabulary else 1
        vocabulary = block * np.ceil(self.model.vocab_size / self.candidates.tp / block)
        matmuls = [operators.Matmul(tokens, hidden, vocabulary)]
        logits = tokens * vocabulary
        moved = element * tokens * hidden * 6.0 / self._sequence_split
        loss = self.times.memory_bound_seconds(self._loss_bytes_per_logit * logits + 3 * moved)
        apart = 1.0 if not self.model.tied_embeddings else np.where(self.candidates.pp > 1, 1.0, 0.0)
        parameters = self._local_parameters(self.model.head_parameters()) * apart
        return self._end(
            forward=self._plain.forward_seconds(matmuls) + loss / 2,
            backward=self._plain.backward_seconds(matmuls) + loss / 2,
            weight_gradient=self._plain.weight_gradient_seconds(matmuls),
            parameters=parameters,
            kept=saved * logits + tokens * hidden * ((4.0 + element) / self._sequence_split + element),
            working=(self._logit_bytes - saved) * logits,
            collectives=1,
        )

    @property
    def _logit_bytes(self) -> float:
        """Bytes per logit that are alive at once in the loss."""
        stack = self._stack
        plain = self._element_bytes if stack.keeps_logits or not stack.fp32_logit_copies else 0
        return 4.0 * stack.fp32_logit_copies + plain

    @property
    def _loss_bytes_per_logit(self) -> Value:
        return _FUSED_LOSS_BYTES_PER_LOGIT if self._stack.fused_loss else self.times.constants.loss_bytes_per_logit

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
        tensor = collectives * self._hidden_collective_seconds(hidden_bytes)
        zero = np.zeros_like(tensor)
        return RowWork(
            forward_seconds=forward,
            backward_seconds=backward,
            weight_gradient_seconds=weight_gradient,
            recompute_seconds_by_policy=nothing,
            tensor_parallel_forward_seconds=tensor,
            tensor_parallel_backward_seconds_by_policy=_policies(none=tensor, selective=tensor, full=tensor),
            context_parallel_forward_seconds=zero,
            context_parallel_backward_seconds_by_policy=nothing,
            expert_parallel_forward_seconds=zero,
            expert_parallel_backward_seconds_by_policy=nothing,
            activation_bytes_by_policy=_policies(none=kept, selective=kept, full=kept),
            working_bytes_by_policy=_policies(none=working, selective=working, full=working),
            parameters=parameters,
            expert_parameters=zero,
        )

    @property
    def _plain(self) -> WeightMatmuls:
        """Matmuls in the compute format."""
        return WeightMatmuls(self.times, self.training, self._sequence_split)

    @property
    def _linear(self) -> WeightMatmuls:
        """A layer's weight matmuls."""
        return WeightMatmuls(self.times, self.training, self._sequence_split, self.training.precision.linear)

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
        queries = length / self.candidates.cp
        matmuls = [
            operators.Matmul(queries, attention.head_size, length, batched),
            operators.Matmul(queries, length, attention.value_head_size, batched),
        ]
        scores = self._element_bytes * batched * queries * length
        # Reads and writes of the scores between the matmuls: scale, mask, softmax and dropout, one kernel or several.
        forward_passes, backward_passes = (4.5, 5.5) if self._stack.fused_elementwise else (6.0, 8.0)
        return (
            self._plain.forward_seconds(matmuls) + self.times.memory_bound_seconds(forward_passes * scores),
            self._plain.backward_seconds(matmuls) + self.times.memory_bound_seconds(backward_passes * scores),
        )

    def _core_again(self, core_forward: Array) -> Array:
        """What selective recompute repeats: nothing where a fused kernel never keeps the scores."""
        return core_forward if self.training.attention == "unfused" else np.zeros_like(core_forward)

    def _hidden_collective_seconds(self, size_bytes: Array, gathered_share: float = 1.0) -> Array:
        """One gather and one reduce-scatter of the hidden states (sequence parallel), or the all-reduce they replace.

        `gathered_share`: bytes of an element in the gather over those in the reduction.
        """
        group = tp_group(self.candidates, self.cluster)
        gather = self.times.collective_seconds("all_gather", size_bytes * gathered_share, group)
        split = gather + self.times.collective_seconds("reduce_scatter", size_bytes, group)
        whole = self.times.collective_seconds("all_reduce", size_bytes, group)
        return np.where(self.candidates.sequence_parallel == 1, split, whole)

    def _layer_tensor_parallel_seconds(self, block: Block) -> Array:
        """Of one layer's forward, and again of its backward: one pair a sublayer (Korthikanti et al. 2022, section 4.2.2)."""
        hidden_bytes = self._element_bytes * self._tokens * self.model.hidden_size
        lowered = self.training.precision.gathered_bytes_per_element / self._element_bytes
        return np.asarray(hidden_pairs(block, self.candidates) * self._hidden_collective_seconds(hidden_bytes, lowered))

    def _exposed_seconds(self, collectives: Array, compute: Array) -> Array:
        """What of `collectives` the `compute` of the same pass does not hide.

        Overlapped, a collective runs in tp pieces beside the matmul that reads or feeds it (Wang et al. 2023, ASPLOS,
        section 5), moved by copy engines: one piece stands alone.
        """
        beside = self._stack.tensor_parallel_overlap * (1 - 1 / self.candidates.tp) * collectives
        return np.asarray(collectives - np.minimum(beside, compute))

    def _layer_bytes(self, block: Block, selected: Array | None) -> tuple[Array, Array]:
        """Bytes kept per microbatch and bytes in use during its backward, by policy. `selected`: kept beside the input.

        The backward pass works in the feed-forward's gradients, or later in the scores', when what the feed-forward kept is
        free again.
        """
        tokens, tp, hidden, element = self._tokens, self.candidates.tp, self.model.hidden_size, self._element_bytes
        plain = tokens * operators.saved_bytes(block, self.training, hidden, tp, self._sequence_split, self._experts)
        inner = (3.0 if block.ffn.gated else 2.0) * element * tokens * block.ffn.active_width / tp
        core, gradients = np.zeros_like(plain), 2.0 * element * tokens * hidden + inner
        if self.training.attention == "unfused":
            core = tokens * operators.score_bytes(block, self.training, tp)
            freed = 0.0 if block.parallel else operators.inner_saved_bytes(block, self.training, tp)
            scores = tokens * (operators.score_gradient_bytes(block, self.training, tp) - freed)
            gradients = np.maximum(gradients, 2.0 * element * tokens * hidden + scores)
        boundary = element * tokens * hidden / self._sequence_split
        if selected is None:
            chosen, repeated = plain, core
        else:
            chosen = np.minimum(plain + core, boundary + tokens * selected)
            repeated = plain + core - chosen
        kept = _policies(none=plain + core, selective=chosen, full=boundary)
        working = _policies(none=gradients, selective=gradients + repeated, full=gradients + plain + core)
        return kept, working

    def _local_parameters(self, parameters: list[Parameter]) -> Array:
        """Elements that one tp rank holds."""
        split = sum(p.elements for p in parameters if p.split)
        whole = sum(p.elements for p in parameters if not p.split)
        return split / self.candidates.tp + whole


def _repeated_when_full(forward: Array, backward: Array) -> Array:
    """A backward pass by policy whose forward is a part that full recompute runs again."""
    return _policies(none=backward, selective=backward, full=backward + forward)


def _policies(*, none: Array, selective: Array, full: Array) -> Array:
    by_name = {"none": none, "selective": selective, "full": full}
    return np.stack([by_name[policy] for policy in POLICIES], axis=-1)
