"""The seam that every duration comes through: what one operation takes on one device of the cluster."""

from typing import Literal, Protocol

from shardwright.base import Array, Number
from shardwright.specs import LinearFormat, RankGroup

from .constants import Constants

CollectiveName = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast", "send"]
MatmulPart = Literal["forward", "input_gradient", "weight_gradient"]
Operator = Literal[
    "rmsnorm",
    "eager_rmsnorm",
    "layernorm",
    "addition",
    "dropout",
    "rotary",
    "eager_rotary",
    "gated_activation",
    "eager_gated_activation",
    "activation",
    "copy",
    "column_sum",
    "embedding",
    "cross_entropy",
    "adamw",
    "sgd",
    "clip",
]
"""Memory-bound operators that can be measured apart. `eager_` ones are chains of PyTorch's own small kernels, the others
one kernel. `addition`: of two tensors; `copy`: into another layout; `column_sum`: a bias's gradient; `clip`: norm and
scaling of gradients."""


class OpTimes(Protocol):
    """Seconds of single operations. Every argument may be an array; results broadcast. Sizes in elements, bytes, FLOPs."""

    @property
    def basis(self) -> Literal["catalog", "profile"]:
        """What the times rest on."""
        ...

    @property
    def constants(self) -> Constants:
        """What formulas that no single operation stands for rest on."""
        ...

    def matmul_seconds(
        self,
        m: Number,
        k: Number,
        n: Number,
        *,
        groups: Number = 1,
        low: LinearFormat | None = None,
        part: MatmulPart = "forward",
    ) -> Array:
        """(m, k) times (k, n), `groups` of them in one kernel; operands in the compute format, or in `low` ready made.

        `part`: of a linear layer, which says how the operands lie in memory.

        Raises:
            SpecError: the device does not compute in `low`.
        """
        ...

    def attention_seconds(self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool) -> Array:
        """A fused attention kernel that computes `flops` (the causal half only, where causal) over `seq_len` keys."""
        ...

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        """Kernels that read and write `moved_bytes` of device memory and compute next to nothing."""
        ...

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        """One memory-bound operator on `elements` elements: of a norm's or an activation's input (a gated one's gate), of
        the queries and keys that are rotated, of what an embedding gives (backward: of its table and of what its tokens give), of the logits, of the
        parameters that are updated. It reads and writes `moved_bytes` in all."""
        ...

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        """What `kernels` kernels of `busy_seconds` in all take when the host has to launch each."""
        ...

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        """One collective over `group`, 0 for one rank.

        `size_bytes` is the whole tensor (the gathered, or the unreduced one), of an all-to-all what one rank holds,
        its own part included, of a send the message.
        """
        ...

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        """What sharding adds to a step of one unit (a layer, an end of the model) of `parameter_bytes` beside its collectives:
        the host's hooks in each of `microbatches`, copies and new memory in `repeats` of them, adding up gradients in the
        others."""
        ...

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        """Copy between the device and its host, one way, page-locked."""
        ...

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        """One rank's optimizer step and clipping on its host, over `parameters` elements, reading and writing `moved_bytes`,
        while the node's other ranks do the same."""
        ...
