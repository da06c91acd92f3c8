"""The row of one transformer layer: its passes, the recompute, the communication and the kept bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import exposed_beside, operator_passes
from shardwright.specs import BYTES_PER_ELEMENT, FEED_FORWARD_MODULES, cp_group, tp_group
from shardwright.specs.model import Block, FeedForward, LinearAttention, MixtureOfExperts, NoAttention

from . import operators
from .core import AttentionCore, Averaging, Dispatch, HeldWeights, Launches, Passes
from .exchanges import (
    ContextExchange,
    LayerSeconds,
    LinearExchange,
    ScaleAgreements,
    hidden_pairs,
    layout_changes,
)
from .frame import WorkFrame
from .frozen import Adapters, BaseWeights
from .kept import LayerBytes
from .precision import reduces_scales
from .recompute import RepeatedModules, Selection, not_run_again, repeated_modules, selection
from .row import RowWork, by_policy, repeated_when_full, without_backward
from .saved import layer_code
from .traffic import Moving, backward_traffic, forward_traffic, joins_attention
from .weight_matmuls import MatmulSeconds, WeightMatmuls, stays


class _Repeated(NamedTuple):
    """Seconds that recompute adds to a backward, by policy. `gathers`:
    collectives that selective recompute runs again."""

    selective: Array
    full: Array
    gathers: Array


def _in_pieces(inside: Array, around: Array) -> Array:
    """What pieces of the sequence repeat under every policy, and what under "full" the pieces before the last repeat before that, for their
    keys and values."""
    return by_policy(none=inside, selective=inside, full=inside + around)


@dataclass(frozen=True)
class LayerWork:
    """Builds the row of `block` for every candidate. `overlap`: as `tensor_parallel_overlap` of the job gives it.
    `beside_dispatch`: seconds of compute that needs no result of the routed experts, beside which their exchange may run."""

    frame: WorkFrame
    block: Block
    overlap: float
    beside_dispatch: Passes | None = None

    def row(self) -> RowWork:
        """Return the work of one microbatch in one layer."""
        passes, context = self._passes, self._context_seconds
        kept, working = self._bytes.by_policy()
        held = HeldWeights(self.frame, self.block, self._dense_matmuls, self._expert_matmuls)
        trained = self.frame.training.trainable.trains_layer_weights
        summed = (
            self.frame.summed_gradients(held.all)
            if trained
            else self.frame.summed_matrices(self._adapters.whole_elements, self._adapters.whole_expert_elements)
        )
        collectives, beside = self._collectives, self._beside_exchanges
        exchanged = self._exposed(collectives.backward, beside.backward, share=self._divisible_share)
        traded, traded_again, balance = self._dispatch.exposed, self._dispatch.again, self._dispatch.balance
        exchanges = self._modules is not None and self._modules.exchange
        uneven = AttentionCore(self.frame, self.block).uneven
        work = RowWork(
            forward_seconds=passes.forward,
            backward_seconds=passes.backward,
            weight_gradient_seconds=self._linear_seconds.weight_gradient + self._adapter_seconds.weight_gradient,
            recompute_seconds_by_policy=self._again_by_policy,
            tensor_parallel_forward_seconds=self._exposed(collectives.forward, beside.forward),
            tensor_parallel_backward_seconds_by_policy=exchanged[:, None] + self._exchanged_again_by_policy,
            gradient_sum_seconds=summed.made,
            added_gradient_sum_seconds=summed.added,
            context_parallel_forward_seconds=context.forward,
            context_parallel_backward_seconds_by_policy=repeated_when_full(context.forward, context.backward),
            expert_parallel_forward_seconds=traded.forward + balance,
            expert_parallel_backward_seconds_by_policy=by_policy(
                none=traded.backward,
                selective=traded_again + balance if exchanges else traded.backward,
                full=traded_again + balance,
            ),
            uneven_forward_seconds=uneven.forward,
            uneven_backward_seconds_by_policy=repeated_when_full(uneven.forward, uneven.backward),
            activation_bytes_by_policy=kept,
            working_bytes_by_policy=working,
            **held.work()._asdict(),
        )
        return without_backward(work) if self.block.frozen else work

    @property
    def _linear(self) -> WeightMatmuls:
        """The weight matmuls of the layer, without gradients of frozen weights."""
        return replace(self.frame.linear, trained=self.frame.training.trainable.trains_layer_weights)

    @cached_property
    def _linear_seconds(self) -> MatmulSeconds:
        return self._linear.seconds(self._matmuls)

    @cached_property
    def _adapter_seconds(self) -> MatmulSeconds:
        return self.frame.plain.seconds(self._adapters.matmuls)

    @cached_property
    def _adapters(self) -> Adapters:
        return Adapters(self.frame.training, self._matmuls)

    @property
    def _expert_matmuls(self) -> list[operators.Matmul]:
        """Those of the routed experts, which follow the router."""
        if isinstance(self.block.ffn, FeedForward):
            return []
        behind = next(index for index, matmul in enumerate(self._matmuls) if not matmul.modules) + 1
        return self._matmuls[behind : behind + 2]

    @property
    def passes_without_experts(self) -> Passes:
        """Seconds of what needs no result of routed experts: of all of a dense layer, and of a layer of experts its shared ones."""
        if isinstance(self.block.ffn, FeedForward):
            return self._passes
        shared = operators.of_shared_experts(self._matmuls)
        return Passes(self._linear.forward_seconds(shared), self._linear.backward_seconds(shared))

    @property
    def _dense_matmuls(self) -> list[operators.Matmul]:
        experts = self._expert_matmuls
        return [matmul for matmul in self._matmuls if not any(matmul is other for other in experts)]

    @cached_property
    def _matmuls(self) -> list[operators.Matmul]:
        frame, hidden = self.frame, self.frame.model.hidden_size
        tokens, tp = frame.tokens, frame.candidates.tp
        joined = joins_attention(self.block, frame.model, frame.stack)
        attention = operators.attention_matmuls(self.block, hidden, tokens, tp, joined=joined)
        if frame.stack.divides_latents:
            attention = operators.on_own_tokens(attention, frame.sequence_split)
        return [
            *attention,
            *operators.ffn_matmuls(
                self.block, hidden, tokens, tp, frame.experts, joined=frame.stack.joined_projections
            ),
        ]

    @cached_property
    def _memory_bound(self) -> Passes:
        """Norms, residuals, activations and the other operators whose time is memory traffic."""
        job = (self.block, self.frame.model, self.frame.training, self.frame.experts)
        return Passes(*map(self._moving, (forward_traffic(*job), backward_traffic(*job))))

    def _moving(self, traffic: tuple[Moving, ...]) -> Array:
        frame = self.frame
        seconds = np.zeros(len(frame.tokens))
        for each in traffic:
            elements = frame.tokens * (each.hidden / frame.sequence_split + each.inner / frame.candidates.tp)
            passes = operator_passes(each.operator, frame.stream_bytes, backward=each.backward)
            moved = frame.stream_bytes * passes * elements
            seconds = seconds + each.count * frame.times.operator_seconds(
                each.operator, elements, moved, backward=each.backward
            )
        return seconds

    @cached_property
    def _core(self) -> Passes:
        return AttentionCore(self.frame, self.block).passes

    @cached_property
    def _busy(self) -> Passes:
        """Seconds of the device alone."""
        linear, core, moving, beside = self._linear_seconds, self._core, self._memory_bound, self._beside_frozen
        hashing = self._averaging.hash_seconds
        return Passes(
            linear.forward + core.forward + moving.forward + beside.forward + hashing,
            linear.backward + core.backward + moving.backward + beside.backward,
        )

    @property
    def _averaging(self) -> Averaging:
        return Averaging(self.frame, self.block)

    @cached_property
    def _beside_frozen(self) -> Passes:
        """Seconds of adapters, and of restoring frozen weights from a lower format."""
        seconds, moved, adapters = self._adapter_seconds, self.frame.times.memory_bound_seconds, self._adapters
        base = BaseWeights(self.frame.training, self._matmuls)
        return Passes(
            seconds.forward + moved(adapters.forward_bytes + base.forward_bytes),
            seconds.backward + moved(adapters.backward_bytes + base.backward_bytes),
        )

    @cached_property
    def _passes(self) -> Passes:
        """Seconds with the host's launches, where a pass waits for them."""
        return self._launched(self._busy)

    def _launched(self, busy: Passes) -> Passes:
        launched, kernels = self.frame.times.with_launches_seconds, self._kernels
        return Passes(launched(busy.forward, kernels.forward), launched(busy.backward, kernels.backward))

    @cached_property
    def _kernels(self) -> Passes:
        return Launches(self.frame, self.block, self._matmuls, self._adapters).of_passes

    @cached_property
    def _context_bytes(self) -> tuple[Array, Array]:
        """(N,) each: what the context exchange keeps of a layer, and what it works in beside a backward."""
        attention = self.block.attention
        if isinstance(attention, NoAttention):
            return np.zeros(len(self.frame.tokens)), np.zeros(len(self.frame.tokens))
        if isinstance(attention, LinearAttention):
            return self._linear_context.kept_bytes(attention), self._linear_context.working_bytes(attention)
        return self._context.kept_bytes(attention), self._context.working_bytes(attention)

    @property
    def _context(self) -> ContextExchange:
        frame = self.frame
        return ContextExchange(frame.training, frame.times, frame.candidates, frame.tokens)

    @property
    def _linear_context(self) -> LinearExchange:
        frame = self.frame
        job = (frame.training, frame.times, frame.candidates, frame.tokens)
        return LinearExchange(*job, frame.model.hidden_size, layout_changes(frame.model))

    @cached_property
    def _context_seconds(self) -> Passes:
        """Exposed seconds of the context exchange, beside the compute and the launches of a pass."""
        exchanged = self._exchanged_context
        if self._agreements is not None:
            forward, backward, _ = self._agreements.seconds(cp_group)
            exchanged = (exchanged[0] + forward, exchanged[1] + backward)
        busy = Passes(self._busy.forward + exchanged[0], self._busy.backward + exchanged[1])
        launched = self._launched(busy)
        return Passes(launched.forward - self._passes.forward, launched.backward - self._passes.backward)

    @property
    def _exchanged_context(self) -> Sequence[Array]:
        attention = self.block.attention
        if isinstance(attention, NoAttention):
            return np.zeros(len(self.frame.tokens)), np.zeros(len(self.frame.tokens))
        if isinstance(attention, LinearAttention):
            return self._linear_context.pass_seconds(attention, *self._core)
        return self._context.pass_seconds(attention, *self._core)

    @cached_property
    def _dispatch(self) -> Dispatch:
        job = (self.frame, self.block, self._passes, self._expert_matmuls, self._linear)
        return Dispatch(*job, beside=self.beside_dispatch)

    @cached_property
    def _collectives(self) -> LayerSeconds:
        """Seconds of exchanges over tp. In a forward and again in a backward: one pair a sublayer (Korthikanti et al. 2022, section
        4.2.2), or what this project's executor runs (`Stack.counts_exchanges`)."""
        frame, block = self.frame, self.block
        lowered = frame.training.precision.gathered_bytes_per_element / frame.element_bytes
        scales = frame.scale_reduction_seconds() if reduces_scales(frame.training) else 0.0
        pair = frame.hidden_collective_seconds(lowered) + scales
        if not frame.stack.counts_exchanges:
            both = np.asarray(hidden_pairs(block, frame.candidates) * pair)
            gather, reduction = frame.latents_spare_seconds(block.attention, lowered)
            return LayerSeconds(both - gather, both - reduction, both - gather)
        wide = layer_code(frame.model.family, block).routing.fp32_weights
        weight_bytes = frame.tokens * (BYTES_PER_ELEMENT["fp32"] if wide else frame.element_bytes)
        exchanged = frame.counted.layer(block, pair, frame.model.hidden_size, weight_bytes, self._tiles)
        return exchanged if self._agreements is None else exchanged.plus(self._agreements.seconds(tp_group))

    @property
    def _modules_exchanges(self) -> Array:
        """(N,): seconds of the exchanges over tp that modules repeat."""
        frame, ffn = self.frame, self.block.ffn
        again, modules = np.zeros(len(frame.tokens)), set(frame.training.recompute_modules)
        if isinstance(ffn, MixtureOfExperts) and "moe" in modules and frame.stack.counts_exchanges:
            again = again + frame.counted.experts_again(ffn)
        linears = {"moe", "shared_experts"} if isinstance(ffn, MixtureOfExperts) else {"mlp"}
        if self._agreements is not None and linears & modules and self._tiles == 1:
            again = again + self._agreements.feed_forward_seconds(tp_group)
        return again

    @cached_property
    def _agreements(self) -> ScaleAgreements | None:
        """Of the scales of 8-bit operands, where the software agrees on them."""
        frame, training = self.frame, self.frame.training
        if training.precision.linear is None or not frame.stack.agrees_on_scales:
            return None
        lowered = [matmul for matmul in self._matmuls if not stays(matmul, training)]
        feed_forward = sum(not set(FEED_FORWARD_MODULES).isdisjoint(matmul.modules) for matmul in lowered)
        return ScaleAgreements(
            frame.times,
            frame.candidates,
            attention=len(lowered) - feed_forward,
            feed_forward=feed_forward,
            tiles=self._tiles,
            share=1 - training.high_precision_layers / frame.model.layer_count,
        )

    @cached_property
    def _beside_exchanges(self) -> Passes:
        """Seconds of a pass that hide exchanges over tp: of its weight matmuls, and those in which the device waits for launches. Of a
        ladder, all of them."""
        if self.block.ladder:
            return self._passes
        linear, busy, passes = self._linear_seconds, self._busy, self._passes
        return Passes(
            linear.forward + passes.forward - busy.forward,
            linear.backward + passes.backward - busy.backward,
        )

    @property
    def _divisible_share(self) -> float:
        """Share of a backward pass's exchanges, by bytes, that run in pieces where any do: all, or the gathers alone."""
        if self.frame.stack.overlaps_input_gradients:
            return 1.0
        gathered = self.frame.training.precision.gathered_bytes_per_element
        return gathered / (gathered + self.frame.element_bytes)

    def _exposed(self, collectives: Array, beside_seconds: Array, *, share: float = 1.0) -> Array:
        """Return the part of `collectives` that is not hidden in `beside_seconds` of the same pass.

        An overlapped collective runs in tp pieces beside the matmul that reads or feeds it (Wang et al. 2023, ASPLOS,
        section 5). Copy engines move the pieces. One piece is always exposed. `share`: of the collectives that run so. That of a ladder
        runs beside the next half as a whole, on multiprocessors. (The last one of a pipeline's stage is not counted apart, though it is
        waited for.)
        """
        if self.block.ladder:
            device, constants = self.frame.times.node.device, self.frame.times.constants
            return exposed_beside(device, constants, np.asarray(beside_seconds), np.asarray(collectives)).network
        overlapped = share * self.overlap * (1 - 1 / self.frame.candidates.tp) * collectives
        return np.asarray(collectives - np.minimum(overlapped, beside_seconds))

    @cached_property
    def _selection(self) -> Selection | None:
        """What selective recompute repeats beside the attention core; None where it repeats nothing else."""
        frame = self.frame
        job = (self.block, frame.training, frame.model.hidden_size, frame.tokens)
        return selection(*job, frame.candidates.tp, frame.sequence_split, frame.experts)

    @cached_property
    def _modules(self) -> RepeatedModules | None:
        """What selective recompute repeats where the job names modules."""
        frame = self.frame
        if not frame.training.recompute_modules:
            return None
        job = (self.block, frame.model, frame.training, frame.tokens)
        return repeated_modules(*job, frame.candidates.tp, frame.sequence_split, frame.experts)

    @property
    def _tiles(self) -> int:
        """Pieces in which the feed-forward runs; experts run in one."""
        dense = isinstance(self.block.ffn, FeedForward) and self.block.has_ffn
        return self.frame.training.mlp_tiles if dense else 1

    @property
    def _tiles_again(self) -> Array:
        """Seconds of the forwards that a tiled feed-forward runs again in its backward, under any policy."""
        if self._tiles == 1:
            return np.zeros_like(self._passes.forward)
        frame = self.frame
        job = (self.block, frame.model.hidden_size, frame.tokens, frame.candidates.tp, frame.experts)
        matmuls = operators.ffn_matmuls(*job, joined=frame.stack.joined_projections)
        again = self._linear.forward_seconds(operators.tiled_again(matmuls, frame.stack))
        return again + frame.plain.forward_seconds(Adapters(frame.training, matmuls).matmuls)

    @property
    def _again_by_policy(self) -> Array:
        """Seconds of what the backward runs again."""
        repeated, pieces = self._repeated, self.frame.training.sequence_chunks
        if pieces == 1:
            tiles = self._tiles_again
            return by_policy(none=tiles, selective=repeated.selective + tiles, full=repeated.full + tiles)
        before, core = 1 - 1 / pieces, self._core.forward
        return _in_pieces(repeated.full, before * (self._passes.forward - core) + before**2 * core)

    @property
    def _exchanged_again_by_policy(self) -> Array:
        """Seconds of exchanges over tp in what the backward runs again."""
        collectives, hidden_by, pieces = (
            self._collectives,
            self._beside_exchanges.forward,
            self.frame.training.sequence_chunks,
        )
        repeated = self._exposed(collectives.repeated, hidden_by)
        if pieces == 1:
            return by_policy(none=np.zeros_like(repeated), selective=self._repeated.gathers, full=repeated)
        return _in_pieces(repeated, (1 - 1 / pieces) * self._exposed(collectives.forward, hidden_by))

    @property
    def _bytes(self) -> LayerBytes:
        kept, beside = self._context_bytes
        more = self._adapters.kept_bytes + kept
        return LayerBytes(self.frame, self.block, self._modules, self._selection, self._tiles, more, beside)

    @cached_property
    def _repeated(self) -> _Repeated:
        """Seconds of the repeated work under each policy."""
        linear, busy, frame = self._linear, self._busy.forward, self.frame
        full = self._passes.forward
        if frame.stack.stops_recompute_early:
            left_out = not_run_again(self.block, frame.model, self._tiles, self._matmuls)
            of_adapters = Adapters(frame.training, left_out).matmuls if self._tiles > 1 else []
            shorter = busy - linear.forward_seconds(left_out) - frame.plain.forward_seconds(of_adapters)
            full = frame.times.with_launches_seconds(shorter, self._kernels.forward)
        if self._modules is not None:
            again = linear.forward_seconds(list(self._modules.matmuls)) + self._moving(self._modules.traffic)
            again = again + self._core.forward * self._modules.core
            return _Repeated(again, full, gathers=self._modules_exchanges)
        if self._selection is not None:
            matmuls = linear.forward_seconds(self._selection.repeated)
            # reduced outputs are kept
            gathers = self._exposed(self._collectives.forward / 2, matmuls)
            again = matmuls + self._memory_bound.forward + self._core.forward * self._selection.core
            return _Repeated(again, full, gathers=gathers)
        # a fused kernel never keeps the scores, so there is nothing to repeat
        scores = self._core.forward if frame.training.attention == "unfused" else np.zeros_like(full)
        return _Repeated(scores, full, gathers=np.zeros_like(full))
