"""Named strategies: how people commonly train, as plans for a given model, cluster and batch, without a search.

Each strategy is a list of levels of plans, one for each recompute policy, the cheapest first. `compare` takes the
fastest plan of the first level in which one fits, so that a strategy recomputes no more than necessary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from shardwright.base import SpecError, divisors, nearest
from shardwright.costmodel import check_tensor_parallel
from shardwright.specs import (
    ClusterSpec,
    LayerRun,
    Mesh,
    Offload,
    Plan,
    RecomputePolicy,
    Stage,
    TrainingSpec,
    ZeroStage,
    even_stages,
)
from shardwright.specs.model import MixtureOfExperts, ModelSpec

_RECOMPUTE: tuple[RecomputePolicy, ...] = ("none", "selective", "full")

Levels = list[list[Plan]]


class _Job(NamedTuple):
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec


def levels_of(name: str, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> Levels:
    """The plans of a named strategy on every device of `cluster`, in levels.

    - "ddp": every rank holds all; "zero1", "zero2", "zero3": the same with that ZeRO stage over all ranks (zero3 is
      FSDP); "hsdp": ZeRO-3 inside a node, its copies over nodes; "zero3-offload": zero3 with the optimizer on the host;
    - "ep+dp": experts spread over the ranks of a node, everything else as in zero1;
    - "tp+dp": tensor parallel over a node, its copies data parallel;
    - "megatron": tensor parallel over a node, pipeline (1F1B) and data parallel with a sharded optimizer between nodes
      (Narayanan et al. 2021, section 3, takeaways 1 to 3), in every division of the nodes;
    - "fsdp" and "megatron-3d" are other names of zero3 and megatron.

    Raises:
        SpecError: no such strategy, or the batch does not divide over its ranks.
    """
    check_strategy(name)
    levels = _LEVELS[_OTHER_NAMES.get(name, name)](_Job(model, cluster, training))
    if not any(levels):
        raise SpecError(
            f"{name} does not divide a global batch of {training.global_batch} over the {cluster.devices} devices of {cluster.name}"
        )
    return levels


def _data_parallel(zero_stage: ZeroStage) -> Callable[[_Job], Levels]:
    def levels(job: _Job) -> Levels:
        ranks = job.cluster.devices
        return [_plans(job, dp=ranks, tp=1, pp=1, zero_stage=zero_stage, recompute=policy) for policy in _RECOMPUTE]

    return levels


def _hybrid_sharded(job: _Job) -> Levels:
    node = min(group.devices_per_node for group in job.cluster.groups)
    nodes, rest = divmod(job.cluster.devices, node)
    if node == 1:
        raise SpecError(f"hsdp shards inside a node, and a node of {job.cluster.name} has one device")
    if rest:
        return []
    levels = [_plans(job, dp=node * nodes, tp=1, pp=1, zero_stage=3, recompute=policy) for policy in _RECOMPUTE]
    mesh = Mesh(dp_shard=node, dp_replicate=nodes)
    return [[plan.model_copy(update={"mesh": mesh}) for plan in level] for level in levels]


def _offloaded(job: _Job) -> Levels:
    host = Offload(optimizer_fraction=1)
    return [[plan.model_copy(update={"offload": host}) for plan in level] for level in _data_parallel(3)(job)]


def _expert_and_data_parallel(job: _Job) -> Levels:
    """Of the degrees that divide the experts and a node, the largest."""
    ranks, node = job.cluster.devices, min(group.devices_per_node for group in job.cluster.groups)
    counts = {block.ffn.experts for block in job.model.layer_classes if isinstance(block.ffn, MixtureOfExperts)}
    if not counts:
        raise SpecError(f"ep+dp spreads experts, and {job.model.name} has none")
    ep = max(degree for degree in divisors(node) if all(experts % degree == 0 for experts in counts))
    levels = _data_parallel(1)(job)
    mesh = Mesh(dp_shard=ranks, ep=ep)
    return [[plan.model_copy(update={"mesh": mesh}) for plan in level] for level in levels]


def _tensor_and_data_parallel(job: _Job) -> Levels:
    tp = _tensor_degree(job)
    dp = job.cluster.devices // tp
    return [_plans(job, dp=dp, tp=tp, pp=1, zero_stage=0, recompute=policy) for policy in _RECOMPUTE]


def _megatron(job: _Job) -> Levels:
    tp = _tensor_degree(job)
    replicas = job.cluster.devices // tp
    degrees = [pp for pp in divisors(replicas) if pp <= job.model.layer_count]
    return [
        [
            plan
            for pp in degrees
            for plan in _plans(job, dp=replicas // pp, tp=tp, pp=pp, zero_stage=1, recompute=policy)
        ]
        for policy in _RECOMPUTE
    ]


def _tensor_degree(job: _Job) -> int:
    """The largest degree that divides a node and the model."""
    node = min(group.devices_per_node for group in job.cluster.groups)
    for tp in range(node, 1, -1):
        if node % tp == 0:
            try:
                check_tensor_parallel(tp, job.model, job.training, sequence_parallel=True)
            except SpecError:
                continue
            return tp
    return 1


def _plans(job: _Job, *, dp: int, tp: int, pp: int, zero_stage: ZeroStage, recompute: RecomputePolicy) -> list[Plan]:
    """One plan for each micro batch that divides; none where the batch does not divide over `dp`."""
    sequences, rest = divmod(job.training.global_batch, dp)
    if rest:
        return []
    stage = zero_stage if dp > 1 else 0
    mesh = Mesh(pp=pp, tp=tp, dp_shard=dp if stage else 1, dp_replicate=1 if stage else dp)
    stages = tuple(
        Stage(layers=(LayerRun(count=count, recompute=recompute, zero_stage=stage),))
        for count in even_stages(job.model.layer_count, pp)
    )
    return [
        Plan(mesh=mesh, micro_batch=micro, microbatches=sequences // micro, stages=stages)
        for micro in divisors(sequences)
    ]


_LEVELS: dict[str, Callable[[_Job], Levels]] = {
    "ddp": _data_parallel(0),
    "zero1": _data_parallel(1),
    "zero2": _data_parallel(2),
    "zero3": _data_parallel(3),
    "hsdp": _hybrid_sharded,
    "zero3-offload": _offloaded,
    "ep+dp": _expert_and_data_parallel,
    "tp+dp": _tensor_and_data_parallel,
    "megatron": _megatron,
}
STRATEGIES: Sequence[str] = tuple(_LEVELS)
_OTHER_NAMES = {"fsdp": "zero3", "megatron-3d": "megatron"}


def check_strategy(name: str) -> None:
    """
    Raises:
        SpecError: `name` is no strategy.
    """
    known = (*STRATEGIES, *_OTHER_NAMES)
    if name not in known:
        searched = "; best, and best-without-cp or another axis, are searched"
        raise SpecError(f"unknown strategy '{name}'; known: {', '.join(known)}{searched}.{nearest(name, known)}")


def strategies_for(model: ModelSpec) -> list[str]:
    """The named strategies that mean something for `model`: all, without those of experts where it has none."""
    has_experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
    return [name for name in STRATEGIES if has_experts or name != "ep+dp"]
