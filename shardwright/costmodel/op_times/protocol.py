"""The interface that every duration comes through: seconds of one operation on one device of a node."""

from typing import Literal, Protocol

from shardwright.base import Array, Number
from shardwright.specs import LinearFormat, NodeGroup, RankGroup

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
"""Memory-bound operators that can be measured separately. `eager_` ones are chains of PyTorch's own small kernels; the
others are one kernel. `addition`: of two tensors; `copy`: into another layout; `column_sum`: a bias's gradient; `clip`:
norm and scaling of gradients."""


class OpTimes(Protocol):
    """Seconds of single operations. Every argument may be an array; results broadcast. Sizes in elements, bytes, FLOPs."""

    @property
    def basis(self) -> Literal["catalog", "profile"]:
        """Origin of the times."""
        ...

    @property
    def node(self) -> NodeGroup:
        """The kind of node whose ranks these times are of.

        Formulas read the device, links, host and profile from here, so that a cluster of several kinds is costed through
        one `OpTimes` for each.
        """
        ...

    @property
    def error_deviation(self) -> float | None:
        """Standard deviation of the logarithm of measured over predicted seconds, by points that the fit of a profile left
        out; None where no profile is behind the times."""
        ...

    @property
    def constants(self) -> Constants:
        """Constants of the formulas that are more than one operation."""
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
        looped: bool = False,
    ) -> Array:
        """Seconds of (m, k) times (k, n), `groups` of them in one kernel, or in a kernel each where they are `looped`.

        The operands are in the compute format, or in `low`, made before. `part`: the part of a linear layer, which
        fixes the layout of the operands in memory.

        Raises:
            SpecError: the device does not compute in `low`.
        """
        ...

    def attention_seconds(
        self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None
    ) -> Array:
        """Seconds of a fused attention kernel over `seq_len` keys that computes `flops` (where causal, only the causal half).

        `value_size`: of a head of values; None where it equals `head_size`, that of queries and keys.
        """
        ...

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        """Seconds of kernels that read and write `moved_bytes` of device memory and compute very little."""
        ...

    def cast_seconds(self, moved_bytes: Number, low: LinearFormat) -> Array:
        """Seconds of making operands in `low`, whose kernels read and write `moved_bytes`. Below zero: traffic that another
        kernel is spared."""
        ...

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        """Seconds of one memory-bound operator that reads and writes `moved_bytes` in all.

        `elements` counts: the input of a norm or an activation (for a gated one, its gate); rotated queries and keys;
        logits; updated parameters. For an embedding it counts the output, and in the backward its table and the
        gradients of its tokens.
        """
        ...

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        """Seconds of `kernels` kernels that take `busy_seconds` in all, when the host has to launch each."""
        ...

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        """Seconds of one collective over `group`, 0 for one rank.

        `size_bytes` is the whole tensor, gathered or unreduced. For an all-to-all it is all that one rank holds, its
        own part included. For a send it is the message.
        """
        ...

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        """Seconds that sharding adds to a step beside its collectives, for one unit of `parameter_bytes`.

        A unit is a layer or an end of the model. The host runs hooks in each of `microbatches`. `repeats` of them copy
        parameters and take new memory; the others add up gradients.
        """
        ...

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        """Seconds of a copy between the device and its host, one way, page-locked."""
        ...

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        """Seconds of one rank's optimizer step and clipping on its host, while the node's other ranks do the same.

        The step covers `parameters` elements and reads and writes `moved_bytes`.
        """
        ...
