"""The choices of a plan that are fixed; the planner makes the others."""

from typing import Any, Literal, Self

from shardwright.base import SpecError, listed
from shardwright.specs import (
    CHOICES,
    ContextParallel,
    ExpertDispatch,
    MeshOrder,
    NonNegativeInt,
    Plan,
    PositiveInt,
    RecomputePolicy,
    ScheduleName,
    Spec,
    Stage,
    ZeroStage,
)


class Fixed(Spec):
    """Choices that the search must keep; None leaves a choice to the planner. One field for each row of `CHOICES`.

    `recompute` holds for every layer. `offload_optimizer` is 1 for an optimizer on the host. `even_stages` gives every
    stage the same number of layers, for frameworks that can't split unevenly; a stack may count embedding and head as a
    layer each there (`Stack.counts_ends`). `sequence_parallel` splits the operators
    outside the tensor-parallel parts along the sequence; left open it follows tensor parallelism. `etp` 0 is what ep leaves
    of tp. `order` left open is the usual one, and `search` tries others for the best entries. `stages` fix everything in a stage: its layers and their recomputation.
    """

    pp: PositiveInt | None = None
    dp_replicate: PositiveInt | None = None
    dp_shard: PositiveInt | None = None
    cp: PositiveInt | None = None
    tp: PositiveInt | None = None
    ep: PositiveInt | None = None
    etp: NonNegativeInt | None = None
    order: MeshOrder | None = None
    micro_batch: PositiveInt | None = None
    stages_per_rank: PositiveInt | None = None
    zero_stage: ZeroStage | None = None
    sequence_parallel: bool | None = None
    offload_optimizer: Literal[0, 1] | None = None
    context_parallel: ContextParallel | None = None
    expert_dispatch: ExpertDispatch | None = None
    schedule: ScheduleName | None = None
    recompute: RecomputePolicy | None = None
    even_stages: bool | None = None
    stages: tuple[Stage, ...] | None = None

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Fix every choice of `plan`, so that a search finds that plan again.

        Raises:
            SpecError: the layers of the plan have several ZeRO stages, which the planner does not choose.
        """
        stages = {run.zero_stage for stage in plan.stages for run in stage.layers}
        if len(stages) > 1:
            raise SpecError(
                f"the plan's layers have ZeRO stages {listed(sorted(stages))}; the planner gives all layers one"
            )
        return cls(**{choice.name: choice.of_plan(plan) for choice in CHOICES})

    def but(self, **changes: Any) -> "Fixed":
        """Return these choices with some of them changed; None frees one.

        Raises:
            SpecError: a value is not allowed for its choice.
        """
        return Fixed.parse(dict(self) | changes, source="fixed")

    def __str__(self) -> str:
        shown = [f"{name} {value}" for name, value in self if value is not None and name != "stages"]
        return ", ".join(shown) or "nothing fixed"
