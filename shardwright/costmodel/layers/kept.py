"""The bytes of a layer: what it keeps of a microbatch until its backward pass, and what that pass works in."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.specs import BYTES_PER_ELEMENT
from shardwright.specs.model import Block, FeedForward, MixtureOfExperts, MultiHeadAttention

from . import operators
from .exchanges import ContextExchange
from .frame import WorkFrame
from .recompute import RepeatedModules, Selection, modules_apart
from .row import by_policy
from .saved import SavedTensors, layer_code


class _Saved(NamedTuple):
    """Bytes that autograd keeps of a layer, (N,) each. `without_core`: where the attention core is repeated. `inner`: as
    wide as the feed-forward. `freed_by_modules`: by the modules that the job names, 0 without any."""

    all: Array
    without_core: Array
    inner: Array
    freed_by_modules: Array


@dataclass(frozen=True)
class LayerBytes:
    """The bytes of `block` for every candidate (N,).

    `modules`, `chosen`: what selective recompute repeats, by the names of the job or by the stack's choice; None where it repeats nothing so.
    `tiles`: pieces in which the feed-forward runs. `more`: bytes that adapters and the context exchange keep. `beside`: bytes that the context
    exchange works in.
    """

    frame: WorkFrame
    block: Block
    modules: RepeatedModules | None
    chosen: Selection | None
    tiles: int
    more: Array
    beside: Array

    def by_policy(self) -> tuple[Array, Array]:
        """Return the bytes kept per microbatch and the bytes in use during its backward, by policy.

        The backward works in the gradients of the feed-forward, and later in those of the scores. By then the
        activations of the feed-forward are free again.
        """
        block, training, frame = self.block, self.frame.training, self.frame
        tokens, tp, hidden, element = frame.tokens, frame.candidates.tp, frame.model.hidden_size, frame.stream_bytes
        saved, tiles = self._saved, self.tiles
        if tiles > 1:  # the input of the feed-forward is kept, and one piece's tensors are made again
            saved = saved._replace(all=saved.all - saved.inner, without_core=saved.without_core - saved.inner)
        inner = (3.0 if block.ffn.gated else 2.0) * element * tokens * block.ffn.active_width / tp
        inner = self._with_routed((inner + saved.inner * (tiles > 1)) / tiles)
        gradients = 2.0 * element * tokens * hidden + inner
        if training.attention == "unfused":
            freed = 0.0 if block.parallel else saved.inner
            scores = tokens * operators.score_gradient_bytes(block, training, tp) - freed
            gradients = np.maximum(gradients, 2.0 * element * tokens * hidden + scores)
        boundary = element * tokens * hidden / frame.sequence_split
        if training.sequence_chunks > 1:
            return self._in_pieces(boundary, inner)
        chosen = saved.without_core
        if self.modules is not None:
            chosen = saved.all - saved.freed_by_modules
        elif self.chosen is not None:
            chosen = np.minimum(saved.all, boundary + tokens * self.chosen.kept_bytes)
        kept = by_policy(none=saved.all, selective=chosen, full=boundary) + self._kept_for_router_loss[:, None]
        # on a CPU the heap finds only part of the room where the first forward had these activations
        again = 1.0 if frame.times.node.device.has_own_memory else 1 + frame.times.constants.heap_slack
        repeated = saved.all - chosen
        runs_again = saved.all + tokens * operators.regathered_bytes(block, training, hidden, frame.sequence_split)
        working = by_policy(none=gradients, selective=gradients + repeated, full=gradients + again * runs_again)
        return kept, working + self.beside[:, None]

    def _in_pieces(self, boundary: Array, inner: Array) -> tuple[Array, Array]:
        """The same of a layer in pieces of the sequence. It keeps its input, and keys and values unless it runs again as a whole; `inner`: of the gradients
        in the feed-forward of all tokens. Its backward works in one piece, in the gradients of the layer's input and output, in those
        of keys and values, and in a copy of both, side by side for the piece that sees them."""
        pieces, seen = self.frame.training.sequence_chunks, self._key_value_bytes
        working = (self._saved.all + inner) / pieces + 2.0 * boundary + 2.0 * seen
        kept = boundary + (1 - 1 / pieces) * seen  # no piece sees those of the last
        return (
            by_policy(none=kept, selective=kept, full=boundary),
            by_policy(none=working, selective=working, full=working + seen),
        )

    @property
    def _key_value_bytes(self) -> Array:
        """(N,): of a microbatch's tokens on a rank."""
        assert isinstance(self.block.attention, MultiHeadAttention), (
            "check_sequence_chunks lets no other attention in pieces"
        )
        frame = self.frame
        exchange = ContextExchange(frame.training, frame.times, frame.candidates, frame.tokens)
        return exchange.local_key_value_bytes(self.block.attention)

    @cached_property
    def _saved(self) -> _Saved:
        """What autograd keeps of the layer: of transformers' own code tensor by tensor, else by the stack's properties."""
        frame, block, training = self.frame, self.block, self.frame.training
        tokens, tp, hidden = frame.tokens, frame.candidates.tp, frame.model.hidden_size
        if frame.stack.transformers_layers:
            return self._saved_tensors
        plain = (
            tokens * operators.saved_bytes(block, training, hidden, tp, frame.sequence_split, frame.experts) + self.more
        )
        scores = operators.score_bytes(block, training, tp) if training.attention == "unfused" else 0.0
        inner = tokens * operators.inner_saved_bytes(block, training, tp)
        freed = tokens * self.modules.freed_bytes if self.modules else np.zeros_like(plain)
        return _Saved(plain + tokens * scores, plain, inner, freed)

    @property
    def _saved_tensors(self) -> _Saved:
        frame, ffn, split = self.frame, self.block.ffn, self.frame.experts
        tp, copies, computed, columns = frame.candidates.tp, *(np.zeros(()),) * 3
        if isinstance(ffn, MixtureOfExperts):
            copies, computed = split.copies(1.0, ffn.computed_top_k, tp), split.computed(ffn, 1.0, tp)
            columns = computed * ffn.expert_width / split.expert_tp
        tensors = SavedTensors(
            block=self.block,
            code=layer_code(frame.model.family, self.block),
            training=frame.training,
            hidden=frame.model.hidden_size,
            tokens=frame.tokens,
            single=frame.candidates.micro_batch == 1,
            tp=tp,
            sequence_split=frame.sequence_split,
            copies=copies,
            computed=computed,
            columns=columns,
        )
        freed = tensors.freed_by(modules_apart(frame.training))
        return _Saved(tensors.kept + self.more, tensors.kept_selective + self.more, tensors.inner, freed)

    @property
    def _kept_for_router_loss(self) -> Array:
        """(N,): probabilities that the loss on routers keeps of each expert, in the format of their logits, whatever is repeated."""
        frame, ffn = self.frame, self.block.ffn
        if isinstance(ffn, FeedForward) or not (frame.model.has_router_loss and frame.stack.transformers_layers):
            return np.zeros_like(frame.tokens)
        wide = layer_code(frame.model.family, self.block).routing.fp32
        return np.asarray((BYTES_PER_ELEMENT["fp32"] if wide else frame.element_bytes) * ffn.choices * frame.tokens)

    def _with_routed(self, inner: Array) -> Array:
        """`inner` bytes of gradients between the matmuls of a feed-forward, and those as wide as the hidden state of the tokens
        that experts got: the gradient of their inputs. Where tokens are weighed in fp32, the gradient of what comes back is alive
        in fp32 three times before any other: itself, and its products with the tokens and with their weights."""
        ffn, frame = self.block.ffn, self.frame
        if isinstance(ffn, FeedForward):
            return inner
        copies = frame.experts.copies(1.0, ffn.computed_top_k, frame.candidates.tp)
        routed = frame.tokens * frame.model.hidden_size * copies
        own = inner + frame.stream_bytes * routed
        weighing = 3.0 * BYTES_PER_ELEMENT["fp32"] * routed
        return np.maximum(own, weighing) if frame.stack.weighs_tokens_in_fp32 else np.asarray(own)
