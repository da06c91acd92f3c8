"""The plan as a picture: the mesh as boxes, and each pipeline rank with its stages, their layers and policies."""

from typing import NamedTuple

from shardwright.specs import Plan, Stage

_AXES = {
    "pp": ("pipeline", "stages one after another"),
    "dp_replicate": ("data, copies", "each has a copy of all shards"),
    "dp_shard": ("data, shards", "each reads sequences of its own and holds a shard"),
    "cp": ("context", "share a sequence"),
    "tp": ("tensor", "split each matrix"),
    "ep": ("experts", "hold different experts, over the ranks of dp_shard, cp and tp"),
}


class AxisBox(NamedTuple):
    """One axis of the mesh: short name, degree, what it is and what its ranks do."""

    name: str
    degree: int
    what: str
    ranks: str


class LayerBlock(NamedTuple):
    """Neighbouring layers of a stage under one policy. `policy` is a word for the style: none, selective, full."""

    first: int
    last: int
    layers: int
    policy: str
    words: str


class StageBlocks(NamedTuple):
    """A stage: its number, whether it has the embedding or the head, its blocks of layers."""

    number: int
    ends: tuple[str, ...]
    blocks: tuple[LayerBlock, ...]
    layer_count: int


class RankRow(NamedTuple):
    """A pipeline rank and its stages, in model order."""

    name: str
    stages: tuple[StageBlocks, ...]


def mesh_boxes(plan: Plan) -> list[AxisBox]:
    """The axes above degree 1, outermost first; one box for a single rank."""
    boxes = [
        AxisBox(name, degree, *_AXES[name])
        for name, degree in plan.mesh.degrees.items()
        if name in _AXES and degree > 1
    ]
    return boxes or [AxisBox("1 rank", 1, "a single rank", "holds everything")]


def rank_rows(plan: Plan) -> list[RankRow]:
    """The pipeline ranks, of every group with replicas."""
    several = bool(plan.replicas)
    rows = []
    for group, one in enumerate(plan.by_group, start=1):
        stages = _stages(one)
        for rank in range(one.mesh.pp):
            name = f"rank {rank} of group {group}" if several else f"rank {rank}"
            rows.append(RankRow(name, tuple(stages[index] for index, at in enumerate(one.stage_ranks) if at == rank)))
    return rows


def _stages(plan: Plan) -> list[StageBlocks]:
    stages, first = [], 0
    shared = plan.vocabulary_parallel != "none"
    for index, stage in enumerate(plan.stages):
        here = [("embedding", index == 0), ("head", index == len(plan.stages) - 1)]
        ends = tuple(f"share of the {end}" if shared else end for end, is_here in here if is_here or shared)
        blocks = tuple(_blocks(stage, first))
        stages.append(StageBlocks(index, ends, blocks, stage.layer_count))
        first += stage.layer_count
    return stages


def _blocks(stage: Stage, first: int) -> list[LayerBlock]:
    found = []
    for run in stage.layers:
        words = ["no recompute" if run.recompute == "none" else f"{run.recompute} recompute"]
        words += [f"ZeRO-{run.zero_stage}"] if run.zero_stage else []
        words += [f"{run.activation_offload:.0%} of activations to the host"] if run.activation_offload else []
        found.append(LayerBlock(first, first + run.count - 1, run.count, run.recompute, ", ".join(words)))
        first += run.count
    return found
