"""Common quantities of all rows of the cost tables: one microbatch on one rank, for every candidate at once."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import CollectiveName, OpTimes
from shardwright.specs import Candidates, Stack, TrainingSpec, tp_group
from shardwright.specs.model import AnyAttention, LatentAttention, MixtureOfExperts, ModelSpec, Parameter

from . import operators
from .exchanges import CountedExchanges, SummedGradients, expert_split
from .weight_matmuls import WeightMatmuls

_SCALE_BYTES = 4.0


@dataclass(frozen=True)
class WorkFrame:
    """The job and its candidates. Symbols are as in operators.py; shapes are (N,)."""

    model: ModelSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates

    @property
    def tokens(self) -> Array:
        """Tokens of one microbatch on one rank. The cp ranks share each sequence."""
        return self.candidates.micro_batch * float(self.training.seq_len) / self.candidates.cp

    @property
    def experts(self) -> operators.ExpertSplit:
        counts = [block.ffn.experts for block in self.model.layer_classes if isinstance(block.ffn, MixtureOfExperts)]
        return expert_split(self.candidates, self.training, counts[0] if counts else None)

    @property
    def sequence_split(self) -> Array:
        """Number of ranks over which norms and residuals are split."""
        return np.where(self.candidates.sequence_parallel == 1, self.candidates.tp, 1)

    @property
    def stack(self) -> Stack:
        return self.training.software

    @property
    def element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def stream_bytes(self) -> int:
        """Bytes of an element of the stream between layers."""
        return self.training.stream_bytes_per_element

    @property
    def hidden_bytes(self) -> Array:
        """Bytes of the unsplit hidden states of all tokens."""
        return self.element_bytes * self.tokens * self.model.hidden_size

    @property
    def plain(self) -> WeightMatmuls:
        """Weight matmuls in the compute format."""
        return WeightMatmuls(self.times, self.training, self.sequence_split)

    @property
    def linear(self) -> WeightMatmuls:
        """Weight matmuls of a layer."""
        return WeightMatmuls(self.times, self.training, self.sequence_split, self.training.precision.linear)

    def hidden_collective_seconds(self, gathered_share: float = 1.0) -> Array:
        """Seconds of one gather and one reduce-scatter of the hidden states, or of the all-reduce that they replace.

        They replace it under sequence parallelism. `gathered_share`: bytes of an element in the gather over those in
        the reduction.
        """
        group = tp_group(self.candidates, self.times.node)
        gather = self.times.collective_seconds("all_gather", self.hidden_bytes * gathered_share, group)
        split = gather + self.times.collective_seconds("reduce_scatter", self.hidden_bytes, group)
        split = split + self._copy_seconds(gathered_share)
        whole = self.times.collective_seconds("all_reduce", self.hidden_bytes, group)
        return np.where(self.candidates.sequence_parallel == 1, split, whole)

    def latents_spare_seconds(self, attention: AnyAttention, gathered_share: float = 1.0) -> tuple[Array, Array]:
        """Seconds, (N,) each, by which a forward's gather and a backward's reduce-scatter are shorter where a stack gathers latents in place of
        hidden states (`Stack.divides_latents`): of keys and values with their rotary part, and of queries, if they have one."""
        none = np.zeros(len(self.candidates))
        if not (self.stack.divides_latents and isinstance(attention, LatentAttention)):
            return none, none
        hidden, group = self.model.hidden_size, tp_group(self.candidates, self.times.node)
        share = (attention.kv_rank + attention.rotary_size + (attention.query_rank or hidden)) / hidden
        divided = self.candidates.sequence_parallel == 1

        def spared(name: CollectiveName, size: Array) -> Array:
            seconds = self.times.collective_seconds
            return np.where(divided, seconds(name, size, group) - seconds(name, size * share, group), 0.0)

        return spared("all_gather", self.hidden_bytes * gathered_share), spared("reduce_scatter", self.hidden_bytes)

    def _copy_seconds(self, gathered_share: float) -> Array:
        """(N,): seconds of joining the ranks' chunks of sequences after a gather and before a reduction (`Stack.gather_copies`)."""
        stack, divided = self.stack, self.candidates.tp > 1
        single = (self.candidates.micro_batch == 1) & stack.views_single_gather
        cast = self.training.precision.linear is not None and gathered_share == 1 and stack.fused_elementwise
        copies = np.where(single, 0.0, stack.gather_copies * gathered_share * (not cast)) + stack.scatter_copies
        return np.where(divided, self.times.memory_bound_seconds(copies * self.hidden_bytes), 0.0)

    @property
    def counted(self) -> CountedExchanges:
        """Single exchanges over tp."""
        return CountedExchanges(self.times, self.candidates, self.hidden_bytes)

    def summed_gradients(self, weights: list[Parameter]) -> SummedGradients:
        """Seconds of summing over tp the gradients of those `weights` of a row that every rank holds whole."""
        if self.stack.counts_exchanges:
            return self.counted.summed_gradients(weights, self.training.precision)
        return self._nothing_summed

    def summed_matrices(self, elements: list[Number], of_experts: list[Number]) -> SummedGradients:
        """The same of whole matrices of adapters with so many elements."""
        if self.stack.counts_exchanges:
            return self.counted.summed_matrices(elements, self.training.precision, of_experts)
        return self._nothing_summed

    @property
    def _nothing_summed(self) -> SummedGradients:
        return SummedGradients(np.zeros(len(self.candidates)), np.zeros(len(self.candidates)))

    def scale_reduction_seconds(self) -> Array:
        """Seconds in which the ranks of tp agree on the scale of an operand that sequence parallelism gathers."""
        reduction = self.times.collective_seconds(
            "all_reduce", _SCALE_BYTES, tp_group(self.candidates, self.times.node)
        )
        return np.where(self.candidates.sequence_parallel == 1, reduction, 0.0)

    def local_parameters(self, parameters: list[Parameter]) -> Array:
        """Number of elements that one tp rank holds."""
        split = sum(p.elements for p in parameters if p.split)
        return np.asarray(split / self.candidates.tp + self.whole_parameters(parameters))

    def whole_parameters(self, parameters: list[Parameter]) -> float:
        """Number of elements that every tp rank holds whole."""
        return float(sum(p.elements for p in parameters if not p.split))
