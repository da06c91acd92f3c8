"""The plan: every choice for a run, and the file that carries it."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import model_validator

from .schedule_shape import ScheduleName as ScheduleName  # a plan's word, so that it is found here too
from .schedule_shape import check_shape, stage_ranks
from .spec import PositiveInt, Spec

RecomputePolicy = Literal["none", "selective", "full"]
ZeroStage = Literal[0, 1, 2, 3]


class Mesh(Spec):
    """Degrees of the axes, outermost first; consecutive ranks differ in `tp` first, in `pp` last.

    `ep` divides dp_shard * cp * tp and regroups those ranks for expert layers.
    """

    pp: PositiveInt = 1
    dp_replicate: PositiveInt = 1
    dp_shard: PositiveInt = 1
    cp: PositiveInt = 1
    tp: PositiveInt = 1
    ep: PositiveInt = 1

    @property
    def dp(self) -> int:
        """Number of data-parallel ranks: each reads its own sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def ranks(self) -> int:
        return self.pp * self.dp * self.cp * self.tp

    def __str__(self) -> str:
        shown = [f"{axis}{degree}" for axis, degree in self if degree > 1]
        return " x ".join(shown) or "1 rank"


class LayerRun(Spec):
    """`count` neighbouring layers that share one strategy.

    `zero_stage` is the ZeRO stage over `dp_shard` (Rajbhandari et al. 2020, section 5): 1 shards the optimizer state,
    2 also the gradients, 3 also the parameters, gathered again for each use. 0 where dp_shard is 1.
    `recompute` is what the backward pass computes again: nothing, the attention core (selective: Korthikanti et al.
    2022, section 5; a fused kernel keeps no scores, so there it equals none) or the whole layer (full).
    """

    count: PositiveInt
    recompute: RecomputePolicy = "none"
    zero_stage: ZeroStage = 0


class Stage(Spec):
    """The layers of one pipeline chunk, in model order. The first stage also holds the embedding, the last the head."""

    layers: tuple[LayerRun, ...]

    @property
    def layer_count(self) -> int:
        return sum(run.count for run in self.layers)

    def each_layer(self) -> Iterator[LayerRun]:
        """One `LayerRun` (its count not meant) for each layer, in order."""
        for run in self.layers:
            for _ in range(run.count):
                yield run


class Offload(Spec):
    """What lives on the host instead of the device.

    `optimizer_fraction`: share of the optimizer (this rank's fp32 parameters, gradients and optimizer state, and the
    update itself) on the host. 0 or 1 here; a fraction between them has no execution yet and is refused.
    """

    optimizer_fraction: Literal[0, 1] = 0


class Plan(Spec):
    """All choices for a run. Valid in itself; `check_plan` holds it against a model and a cluster.

    `stages[i]` runs on pipeline rank `stage_ranks[i]`. `micro_batch` counts sequences per microbatch per data-parallel
    rank, `microbatches` microbatches per step per data-parallel rank.
    """

    mesh: Mesh
    micro_batch: PositiveInt
    microbatches: PositiveInt
    schedule: ScheduleName = "1f1b"
    stages: tuple[Stage, ...]
    sequence_parallel: bool = True
    offload: Offload = Offload()

    @property
    def stages_per_rank(self) -> int:
        return len(self.stages) // self.mesh.pp

    @property
    def stage_ranks(self) -> list[int]:
        """The pipeline rank of each stage."""
        return stage_ranks(self.schedule, self.mesh.pp, len(self.stages))

    @property
    def layer_count(self) -> int:
        return sum(stage.layer_count for stage in self.stages)

    @property
    def global_batch(self) -> int:
        """Sequences per step over all ranks."""
        return self.mesh.dp * self.micro_batch * self.microbatches

    @property
    def zero_stage(self) -> ZeroStage:
        """The highest ZeRO stage of any layer; the embedding and the head follow it."""
        return max(run.zero_stage for stage in self.stages for run in stage.layers)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mesh = self.mesh
        if mesh.cp > 1 or mesh.ep > 1:
            raise ValueError(
                f"cp {mesh.cp} and ep {mesh.ep}: context and expert parallelism are not available in this version; set both to 1"
            )
        check_shape(self.schedule, mesh.pp, len(self.stages), self.microbatches)
        for index, stage in enumerate(self.stages):
            if not stage.layers:
                raise ValueError(f"stage {index} holds no layer; every stage needs at least one")
            for run in stage.layers:
                if (run.zero_stage == 0) != (mesh.dp_shard == 1):
                    raise ValueError(
                        f"stage {index} has zero_stage {run.zero_stage} with dp_shard {mesh.dp_shard}; ZeRO stages 1 to 3 need dp_shard of 2 or more, 0 needs 1"
                    )
        return self

    def differences(self, other: "Plan") -> list[str]:
        """Readable lines, one for each choice in which `other` differs from this plan; empty when they are equal."""
        mine, theirs = _flat(self.model_dump()), _flat(other.model_dump())
        return [
            f"{key}: {mine.get(key, 'absent')} -> {theirs.get(key, 'absent')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key, "absent") != theirs.get(key, "absent")
        ]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{prefix}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    return {key: leaf for name, inner in items for key, leaf in _flat(inner, name).items()}
