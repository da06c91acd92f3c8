"""What the rows of the cost tables share: one microbatch on one rank, for every candidate at once."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Candidates, ClusterSpec, Stack, TrainingSpec, tp_group
from shardwright.specs.model import ModelSpec, Parameter

from . import operators
from .experts import expert_split
from .weight_matmuls import WeightMatmuls


@dataclass(frozen=True)
class WorkFrame:
    """The job and its candidates. Symbols as in operators.py; shapes (N,)."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates

    @property
    def tokens(self) -> Array:
        """Of one microbatch on one rank: cp ranks share each sequence."""
        return self.candidates.micro_batch * float(self.training.seq_len) / self.candidates.cp

    @property
    def experts(self) -> operators.ExpertSplit:
        return expert_split(self.candidates, self.training)

    @property
    def sequence_split(self) -> Array:
        """Over how many ranks norms and residuals are split."""
        return np.where(self.candidates.sequence_parallel == 1, self.candidates.tp, 1)

    @property
    def stack(self) -> Stack:
        return self.training.software

    @property
    def element_bytes(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def hidden_bytes(self) -> Array:
        """Of the hidden states of all tokens, whole."""
        return self.element_bytes * self.tokens * self.model.hidden_size

    @property
    def plain(self) -> WeightMatmuls:
        """Matmuls in the compute format."""
        return WeightMatmuls(self.times, self.training, self.sequence_split)

    @property
    def linear(self) -> WeightMatmuls:
        """A layer's weight matmuls."""
        return WeightMatmuls(self.times, self.training, self.sequence_split, self.training.precision.linear)

    def hidden_collective_seconds(self, gathered_share: float = 1.0) -> Array:
        """One gather and one reduce-scatter of the hidden states (sequence parallel), or the all-reduce they replace.

        `gathered_share`: bytes of an element in the gather over those in the reduction.
        """
        group = tp_group(self.candidates, self.cluster)
        gather = self.times.collective_seconds("all_gather", self.hidden_bytes * gathered_share, group)
        split = gather + self.times.collective_seconds("reduce_scatter", self.hidden_bytes, group)
        whole = self.times.collective_seconds("all_reduce", self.hidden_bytes, group)
        return np.where(self.candidates.sequence_parallel == 1, split, whole)

    def local_parameters(self, parameters: list[Parameter]) -> Array:
        """Elements that one tp rank holds."""
        split = sum(p.elements for p in parameters if p.split)
        whole = sum(p.elements for p in parameters if not p.split)
        return split / self.candidates.tp + whole
