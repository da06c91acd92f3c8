"""Context parallelism of linear attention: the ranks pass on what a part of the sequence did to the state, not keys and values.

A rank holds a run of neighbouring tokens. What they do to the state S of a head, of (d_k, d_v), is S -> M S + N. By the delta rule M is
a matrix of (d_k, d_k), so that d_k (d_k + d_v) numbers say it, whatever the length. Mamba-2 and lightning attention decay by one number.
Three ways (`Runs.linear_context`):

"states": each rank makes M and N of its tokens, all gather them in fp32, and each chains those before its own (fla-org/flash-linear-attention,
fla/ops/cp/README.md; Megatron-Core's linear_cp_mode "chunkwise"). M and N cost a second pass over the tokens without their outputs: of a chunk of
C tokens, 4 C d_k d_v FLOPs for N, and 2 C d_k^2 + 2 d_k^3 for M. The backward does the same with gradients, from the last rank to the first. The
convolution needs the last tokens of the rank before. Sun et al. 2024, LASP-2 (arXiv 2502.07563), gathers states so.

"pieces": as this project's executor does it (executor/context/linear.py). Tokens stay in zig-zag order, so that a rank has two runs of
neighbouring tokens, or one under Ulysses. All gather M and N of all pieces, and the inputs of convolutions before them. The recurrence runs
once: beside N, of (d_k, d_v), runs M, of (d_k, d_k), as further columns of the state; what queries read of it is multiplied by the state before the
piece. Where M is a decay, queries read that state besides.

"heads": an all-to-all takes all projections to the ranks of their heads, which see the whole sequence, and another one brings the outputs back
(linear_cp_mode "headwise": Megatron-LM, megatron/core/ssm/gated_delta_net/gdn.py, a2a_cp_to_hp). Mamba-2 goes so in Megatron-Core, whatever
that mode (`Runs.mamba_context`; megatron/core/ssm/mamba_context_parallel.py). Groups of B and C are repeated where ranks are more.

Causal attention between such layers wants each rank to have tokens from the front and the back (context.py). So hidden states change their
ranks wherever the kind of attention changes, `layout_changes` times for each linear layer (Megatron-LM, build_cp_partition_mode_plan).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.recurrence import recurrence_flops
from shardwright.costmodel.op_times import CollectiveName, OpTimes
from shardwright.specs import BYTES_PER_ELEMENT, CONTEXT_PARALLEL, Candidates, LinearContext, TrainingSpec, cp_group
from shardwright.specs.model import GatedDelta, Lightning, LinearAttention, Mamba2, ModelSpec, NoAttention

from .context import PassSeconds

_FP32 = BYTES_PER_ELEMENT["fp32"]


def layout_changes(model: ModelSpec) -> float:
    """Return how often the kind of attention changes between neighbouring layers, for each layer of linear attention."""
    kinds = [model.layer_classes[kind].attention for kind in model.class_of_layer]
    linear = [isinstance(kind, LinearAttention) for kind in kinds if not isinstance(kind, NoAttention)]
    if all(linear):
        return 0.0
    # tokens come and labels go as causal attention has them
    around = [False, *linear, False]
    return sum(one != two for one, two in pairwise(around)) / max(1, sum(linear))


def context_of(attention: LinearAttention, training: TrainingSpec) -> LinearContext | None:
    """Return how the ranks of cp exchange in such attention in the software of the job; None where cp does not go with it."""
    runs = training.software.runs
    return runs.mamba_context if isinstance(attention, Mamba2) else runs.linear_context


@dataclass(frozen=True)
class LinearExchange:
    """The exchange of one layer for `tokens` (N,), the tokens of a rank, which are 1/cp of its microbatch."""

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    tokens: Array
    hidden: int
    layout_changes: float

    def pass_seconds(self, attention: LinearAttention, core_forward: Array, core_backward: Array) -> PassSeconds:
        """Return the seconds that the exchange adds. `core_forward`, `core_backward` (N,): seconds of the rank's own recurrence."""
        if (self.candidates.cp == 1).all():
            return PassSeconds(np.zeros(len(self.candidates)), np.zeros(len(self.candidates)))
        if self._in_pieces(attention):
            return self._of_pieces(attention, core_forward, core_backward)
        moved = self.layout_changes * self._seconds("all_to_all", self._element * self.tokens * self.hidden)
        if self._by_heads(attention):
            there = self._seconds("all_to_all", self._projected(self._sent_width(attention)))
            both = moved + there + self._seconds("all_to_all", self._projected(attention.value_width))
            return self._where_divided(both, both)
        gather = self._seconds("all_gather", self.candidates.cp * self._summary_bytes(attention))
        beside = moved + gather + self._seconds("send", self._halo_bytes(attention))
        again = _summary_share(attention)
        return self._where_divided(beside + again * core_forward, beside + again * core_backward)

    def _of_pieces(self, attention: LinearAttention, core_forward: Array, core_backward: Array) -> PassSeconds:
        """What forwards gather is reduced to the pieces in the backward."""
        sizes = [self._pieces * self._summary_bytes(attention), self._pieces * self._halo_bytes(attention)]
        forward = sum((self._seconds("all_gather", size) for size in sizes), np.zeros(len(self.candidates)))
        backward = sum((self._seconds("reduce_scatter", size) for size in sizes), np.zeros(len(self.candidates)))
        more = _widened_share(attention)
        return self._where_divided(forward + more * core_forward, backward + more * core_backward)

    @property
    def _pieces(self) -> Array:
        """(N,): runs of neighbouring tokens of a sequence, on all ranks."""
        single = self.candidates.context_parallel == CONTEXT_PARALLEL.index("ulysses")
        return np.asarray(np.where(single, 1, 2) * self.candidates.cp)

    def _halo_bytes(self, attention: LinearAttention) -> Array:
        """(N,): bytes that a convolution reads of the piece before."""
        width = (attention.kernel - 1) * attention.convolved_width
        return self._element * self._sequences * width / self.candidates.tp

    def working_bytes(self, attention: LinearAttention) -> Array:
        """(N,): bytes in use beside a backward: what came from other ranks, and its gradients."""
        parts = self._pieces if self._in_pieces(attention) else self.candidates.cp
        whole = parts * self._summary_bytes(attention)
        traded = self._projected(self._sent_width(attention) + attention.value_width)
        return self._where_divided(*(2 * (traded if self._by_heads(attention) else whole),) * 2).forward

    def kept_bytes(self, attention: LinearAttention) -> Array:
        """(N,): bytes that a layer keeps beside those without cp: the state that a rank or a piece begins with; of pieces also what was
        gathered, and what queries read, a row of keys a head.
        """
        state = _FP32 * self._sequences * attention.state_size / self.candidates.tp
        if self._in_pieces(attention):
            read = self._element * self.tokens * attention.heads * attention.key_size / self.candidates.tp
            own = state * self._pieces / self.candidates.cp
            kept = self._pieces * self._summary_bytes(attention) + own + read
            return self._where_divided(kept, kept).forward
        return self._where_divided(*(np.zeros_like(state) if self._by_heads(attention) else state,) * 2).forward

    def _in_pieces(self, attention: LinearAttention) -> bool:
        return context_of(attention, self.training) == "pieces"

    def _by_heads(self, attention: LinearAttention) -> bool:
        return context_of(attention, self.training) == "heads"

    def _sent_width(self, attention: LinearAttention) -> Array:
        """(N,): columns of projections that an exchange by heads sends, with each group of Mamba-2 as often as ranks need it."""
        copies = np.maximum(1.0, self.candidates.tp * self.candidates.cp / attention.key_heads)
        again = 2 * attention.key_width * isinstance(attention, Mamba2)
        return np.asarray(attention.input_width + again * (copies - 1))

    @property
    def _element(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def _sequences(self) -> Array:
        return np.asarray(self.candidates.micro_batch, dtype=float)

    def _summary_bytes(self, attention: LinearAttention) -> Array:
        """(N,): bytes of M and N of the rank's heads and sequences."""
        each = attention.heads * attention.transition_size + attention.state_size
        return _FP32 * self._sequences * each / self.candidates.tp

    def _projected(self, width: Number) -> Array:
        return self._element * self.tokens * width / self.candidates.tp

    def _seconds(self, name: CollectiveName, size_bytes: Array) -> Array:
        return self.times.collective_seconds(name, size_bytes, cp_group(self.candidates, self.times.node))

    def _where_divided(self, forward: Array, backward: Array) -> PassSeconds:
        divided = self.candidates.cp > 1
        return PassSeconds(np.where(divided, forward, 0.0), np.where(divided, backward, 0.0))


def _widened_share(attention: LinearAttention) -> float:
    """FLOPs of pieces beyond those of the recurrence, over the latter: M as further columns, and what the state before adds."""
    keys, values = attention.key_size, attention.value_size
    more = 2.0 * keys * values
    if isinstance(attention, GatedDelta):
        more += 2.0 * (2 * attention.chunk + 3 * keys) * keys
    elif isinstance(attention, Lightning):
        more += 2.0 * keys * values  # transformers' code does not hand out the state, which is computed again
    return attention.heads * more / recurrence_flops(attention)


def _summary_share(attention: LinearAttention) -> float:
    """FLOPs of M and N over those of the recurrence (recurrence/flops.py), per token and head.

    Where M is a decay, states need no second pass: the outputs of a rank's own tokens and what the state before them adds (2 N P FLOPs)
    are apart.
    """
    chunk, keys, values = attention.chunk, attention.key_size, attention.value_size
    if not isinstance(attention, GatedDelta):
        return (
            2.0
            * keys
            * values
            / (2.0 * (chunk * (keys * attention.key_heads / attention.heads + values) + 2 * keys * values))
        )
    summary = 4.0 * keys * values + 2.0 * keys**2 + 2.0 * keys**3 / chunk
    return summary / (2.0 * (chunk * (3 * keys + 2 * values) + 3 * keys * values))
