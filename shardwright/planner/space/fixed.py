"""What the user fixes of a plan; the planner chooses the rest."""

from typing import Literal

from shardwright.specs import PositiveInt, RecomputePolicy, ScheduleName, Spec, ZeroStage


class Fixed(Spec):
    """Choices that the search must keep; None leaves one to the planner.

    `recompute` holds for every layer, `offload_optimizer` is 1 for an optimizer on the host. `even_stages` gives every
    stage the same number of layers, which frameworks that don't split unevenly need. `sequence_parallel` splits what is
    between the tensor-parallel parts along the sequence; left open it follows tensor parallelism.
    """

    tp: PositiveInt | None = None
    pp: PositiveInt | None = None
    dp_replicate: PositiveInt | None = None
    dp_shard: PositiveInt | None = None
    zero_stage: ZeroStage | None = None
    micro_batch: PositiveInt | None = None
    schedule: ScheduleName | None = None
    stages_per_rank: PositiveInt | None = None
    recompute: RecomputePolicy | None = None
    offload_optimizer: Literal[0, 1] | None = None
    even_stages: bool | None = None
    sequence_parallel: bool | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self if value is not None) or "nothing fixed"
