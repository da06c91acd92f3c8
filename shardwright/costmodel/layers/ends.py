"""The rows at the two ends of the model: the embedding, and the head with its loss."""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import Value, operator_passes
from shardwright.specs.model import Norm

from . import operators
from .exchanges import CountedExchanges, SummedGradients
from .frame import WorkFrame
from .frozen import unneeded_norm_passes
from .row import RowWork, by_policy
from .saved import layer_code, norm_bytes, norm_weight_bytes

# Forward reads the logits twice, for the maximum and the sum. Backward reads them once and overwrites them by their
# gradient.
_FUSED_LOSS_BYTES_PER_LOGIT = 8.0
# A rank's part of a padded vocabulary is a multiple of this many words (Megatron-LM, make-vocab-size-divisible-by).
_VOCABULARY_BLOCK = 128


@dataclass(frozen=True)
class EndWork:
    """Builds the rows of embedding and head. Each of them exchanges the hidden states over tp."""

    frame: WorkFrame

    def embedding(self) -> RowWork:
        """Token and position embedding: the forward is a gather, the backward a dense gradient, or both are matmuls."""
        hidden_bytes = self.frame.hidden_bytes
        parameters = self.frame.local_parameters(self.frame.model.embedding_parameters())
        gather = self.frame.times.operator_seconds
        table_bytes = hidden_bytes + 3.0 * self.frame.element_bytes * parameters
        tokens_given = self.frame.tokens * self.frame.model.hidden_size
        trained = self.frame.training.trainable.trains_embedding
        backward = trained * gather("embedding", parameters + tokens_given, table_bytes, backward=True)
        kept = 8.0 * self.frame.tokens * trained
        look_up = gather("embedding", tokens_given, 2 * hidden_bytes)
        if self.frame.stack.embeds_by_matmul:
            look_up, backward, one_hot_bytes = self._one_hot(trained)
            kept = kept + one_hot_bytes
        forward, back = self._counted.embedding if self._counted else self._pair
        return self._end(
            forward=look_up,
            backward=backward,
            weight_gradient=backward,
            parameters=parameters,
            whole=self.frame.whole_parameters(self.frame.model.embedding_parameters()),
            kept=kept,
            working=self.frame.element_bytes * parameters * trained,
            trained=trained,
            exchanges=(forward, trained * back),
        )

    def _one_hot(self, trained: bool) -> tuple[Array, Array, Array]:
        """Seconds of an embedding by matmul, forward and backward, and the bytes of its one-hot rows (tokens, vocabulary), which
        are written once and read by both matmuls."""
        frame = self.frame
        words = frame.model.vocab_size / np.asarray(frame.candidates.tp)
        matmuls = [operators.Matmul(frame.tokens, words, frame.model.hidden_size)]
        linear, one_hot_bytes = replace(frame.plain, trained=trained), frame.element_bytes * frame.tokens * words
        forward = frame.times.memory_bound_seconds(one_hot_bytes) + linear.forward_seconds(matmuls)
        return forward, linear.weight_gradient_seconds(matmuls) * trained, one_hot_bytes * trained

    def head(self) -> RowWork:
        """Final norm, LM head and loss, all pieces of it one after the other. A tied embedding counts a second time where
        the two are on different stages (pp > 1)."""
        tokens, hidden, element = self.frame.tokens, self.frame.model.hidden_size, self.frame.element_bytes
        trained = self.frame.training.trainable.trains_head
        saved = 4.0 if self.frame.stack.fp32_logit_copies else float(element)  # the softmax, from forward to backward
        block = _VOCABULARY_BLOCK if self.frame.stack.pads_vocabulary else 1
        vocabulary = block * np.ceil(self.frame.model.vocab_size / self.frame.candidates.tp / block)
        chunks = self.frame.training.loss_chunks
        matmuls = [operators.Matmul(np.ceil(tokens / chunks), hidden, vocabulary)]  # of each piece
        linear = replace(self.frame.plain, trained=trained).seconds(matmuls)
        logits = tokens * vocabulary
        loss = self._loss_bytes_per_logit * logits / 2
        alive = self._logit_bytes * logits / chunks
        # a loss in pieces has its gradient, as large as the hidden states, when the forward ends
        kept_logits = saved * logits if chunks == 1 else np.minimum(alive, element * tokens * hidden)
        early = chunks > 1 and self.frame.stack.loss_gradients_in_forward
        if early:
            of_weight, of_input = trained * hidden * vocabulary, element * tokens * hidden
            kept_logits = of_input + element * of_weight
            alive = alive + of_input + (4.0 + element) * of_weight  # the sum, and the gradient of one piece
        # one stage alone runs a microbatch's backward behind its forward: the loss is over when that of the layers begins
        over = self.frame.candidates.pp == 1
        kept_logits, capped = np.where(over, 0.0, kept_logits), self._capped_bytes_per_logit * logits
        judge = self.frame.times.operator_seconds
        # each further piece adds its gradient of the weight to the sum: two reads and a write
        summed = 3.0 * element * hidden * vocabulary * (chunks - 1)
        summing = self.frame.times.memory_bound_seconds(summed) if chunks > 1 and trained else np.zeros_like(logits)
        apart = 1.0 if not self.frame.model.tied_embeddings else np.where(self.frame.candidates.pp > 1, 1.0, 0.0)
        parameters = self.frame.local_parameters(self.frame.model.head_parameters()) * apart
        return self._end(
            forward=self._norm_seconds()
            + chunks * linear.forward
            + chunks * judge("cross_entropy", logits / chunks, loss / chunks),
            backward=self._norm_seconds(backward=True)
            + chunks * linear.backward
            + chunks * judge("cross_entropy", logits / chunks, loss / chunks, backward=True)
            + summing,
            weight_gradient=chunks * linear.weight_gradient + summing,
            parameters=parameters,
            whole=self.frame.whole_parameters(self.frame.model.head_parameters()) * apart,
            kept=kept_logits
            + np.where(over, 0.0, capped)
            + self._norm_constant_bytes
            + tokens * (self._norm_bytes / self.frame.sequence_split + element * hidden * trained * (not early)),
            working=alive - kept_logits + np.where(over, capped, 0.0),
            trained=trained,
            exchanges=self._head_exchanges,
            summed=self.frame.summed_gradients(self.frame.model.head_parameters() if trained else []),
        )

    def joined_input(self) -> RowWork:
        """The input of a layer that predicts a later token: the embedding of that token and the hidden state, both normalised,
        and a matmul from both to one hidden state, whose columns tp splits and gathers."""
        frame, hidden, element = self.frame, self.frame.model.hidden_size, self.frame.element_bytes
        matmuls = [
            operators.Matmul(frame.tokens, 2 * hidden, hidden / np.asarray(frame.candidates.tp), split="columns")
        ]
        given, look_up = frame.tokens * hidden, frame.times.operator_seconds
        trained = frame.training.trainable.trains_layer_weights
        linear = replace(frame.linear, trained=trained).seconds(matmuls)
        return self._end(
            forward=2 * self._norm_seconds() + linear.forward + look_up("embedding", given, 2 * frame.hidden_bytes),
            backward=2 * self._norm_seconds(backward=True) + linear.backward,
            weight_gradient=linear.weight_gradient,
            parameters=np.asarray(2 * hidden * hidden / np.asarray(frame.candidates.tp) + 2 * hidden),
            whole=2 * hidden,
            kept=frame.tokens * 2 * (self._norm_bytes / frame.sequence_split + element * hidden * trained),
            working=np.zeros_like(given),
            trained=trained,
            exchanges=self._pair,
        )

    @property
    def _counted(self) -> CountedExchanges | None:
        return self.frame.counted if self.frame.stack.counts_exchanges else None

    @property
    def _pair(self) -> tuple[Array, Array]:
        """A gather and a reduction in each pass."""
        both = self.frame.hidden_collective_seconds()
        return both, both

    @property
    def _head_exchanges(self) -> tuple[Array, Array]:
        if self._counted is None:
            return self._pair
        return self._counted.head

    @property
    def _norm_bytes(self) -> Number:
        """Bytes per token that the final norm keeps."""
        frame, hidden, element = self.frame, self.frame.model.hidden_size, self.frame.element_bytes
        if not frame.stack.transformers_layers:
            return (4.0 + element * frame.training.trainable.trains_head) * hidden
        norm, code = frame.model.final_norm, layer_code(frame.model.family, frame.model.layer_classes[0])
        trained = frame.training.trainable.trains_head
        return norm_bytes(norm, code, element, hidden, trained=trained) if norm else 0.0

    @property
    def _norm_constant_bytes(self) -> float:
        """Bytes of what transformers' final norm computes from its weight, whatever the number of tokens."""
        frame, norm = self.frame, self.frame.model.final_norm
        if not frame.stack.transformers_layers or norm is None:
            return 0.0
        code = layer_code(frame.model.family, frame.model.layer_classes[0])
        return norm_weight_bytes(norm, code, frame.element_bytes, frame.model.hidden_size)

    @property
    def _capped_bytes_per_logit(self) -> int:
        """Bytes per logit that transformers keeps of a cap on logits: the hyperbolic tangent, which its gradient reads."""
        frame = self.frame
        caps = layer_code(frame.model.family, frame.model.layer_classes[0]).caps_logits
        return frame.element_bytes * (frame.stack.transformers_layers and caps)

    def _norm_seconds(self, *, backward: bool = False) -> Array:
        """Seconds of the final norm."""
        frame, norm = self.frame, self.frame.model.final_norm
        elements = frame.tokens * frame.model.hidden_size / frame.sequence_split
        operator = operators.norm_operator(norm or Norm(), frame.stack)
        passes = operator_passes(operator, frame.element_bytes, backward=backward)
        if backward and not frame.training.trainable.trains_head:
            passes -= unneeded_norm_passes(operator)
        moved = frame.element_bytes * passes * elements
        return frame.times.operator_seconds(operator, elements, moved, backward=backward)

    @property
    def _logit_bytes(self) -> Array:
        """(N,): bytes per logit that are alive at once in the loss."""
        stack = self.frame.stack
        plain = self.frame.element_bytes if stack.keeps_logits or not stack.fp32_logit_copies else 0
        split = stack.fp32_logit_copies if stack.split_logit_copies is None else stack.split_logit_copies
        copies = np.where(self.frame.candidates.tp > 1, split, stack.fp32_logit_copies)
        return np.asarray(4.0 * copies + plain)

    @property
    def _loss_bytes_per_logit(self) -> Value:
        return (
            _FUSED_LOSS_BYTES_PER_LOGIT
            if self.frame.stack.fused_loss
            else self.frame.times.constants.loss_bytes_per_logit
        )

    def _end(
        self,
        *,
        forward: Array,
        backward: Array,
        weight_gradient: Array,
        parameters: Array,
        whole: Number,
        kept: Array,
        working: Array,
        trained: bool,
        exchanges: tuple[Array, Array],
        summed: SummedGradients | None = None,
    ) -> RowWork:
        """`whole`: those of the parameters that every tp rank holds whole. `trained`: the parameters are; otherwise they lie in the compute format. `exchanges`: seconds over tp, in a forward and
        a backward; `summed`: and of gradients."""
        nothing = by_policy(none=np.zeros_like(kept), selective=np.zeros_like(kept), full=np.zeros_like(kept))
        tensor, back = exchanges
        zero = np.zeros_like(tensor)
        sums = summed or SummedGradients(zero, zero)
        return RowWork(
            forward_seconds=forward,
            backward_seconds=backward,
            weight_gradient_seconds=weight_gradient,
            recompute_seconds_by_policy=nothing,
            tensor_parallel_forward_seconds=tensor,
            tensor_parallel_backward_seconds_by_policy=by_policy(none=back, selective=back, full=back),
            gradient_sum_seconds=sums.made,
            added_gradient_sum_seconds=sums.added,
            context_parallel_forward_seconds=zero,
            context_parallel_backward_seconds_by_policy=nothing,
            expert_parallel_forward_seconds=zero,
            expert_parallel_backward_seconds_by_policy=nothing,
            uneven_forward_seconds=zero,
            uneven_backward_seconds_by_policy=nothing,
            activation_bytes_by_policy=by_policy(none=kept, selective=kept, full=kept),
            working_bytes_by_policy=by_policy(none=working, selective=working, full=working),
            parameters=parameters * trained,
            whole_parameters=whole * trained + zero,
            expert_parameters=zero,
            frozen_bytes=self.frame.element_bytes * parameters * (not trained),
            expert_frozen_bytes=zero,
        )
