"""Meshes of the space: every degree that divides model, batch and cluster and keeps the fixed choices."""

from collections.abc import Iterator

from shardwright.base import SpecError, divisors
from shardwright.costmodel import check_context_parallel, tensor_parallel_sizes
from shardwright.specs import ClusterSpec, Mesh, TrainingSpec, experts_fold
from shardwright.specs.model import ModelSpec

from .fixed import Fixed

# Data-parallel groups of at most this size are split in every way, larger ones at node boundaries only.
_SPLIT_FREELY_UP_TO = 8


def meshes_of(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Mesh]:
    cp, ep, etp = fixed.cp or 1, fixed.ep or 1, fixed.etp or 0
    for tp in _tensor_degrees(model, cluster, training, fixed):
        if cluster.devices % (tp * cp) or not _cuts_sequence(model, training, fixed, tp, cp):
            continue
        for pp in divisors(cluster.devices // (tp * cp)):
            if pp > _most_stages(model, fixed) or fixed.pp not in (None, pp):
                continue
            dp = cluster.devices // (tp * cp * pp)
            if training.global_batch % dp:
                continue
            for dp_shard in _shard_degrees(dp, tp, cp, cluster, fixed):
                if experts_fold(dp_shard * cp * tp, tp, ep, etp):
                    yield Mesh(pp=pp, dp_replicate=dp // dp_shard, dp_shard=dp_shard, cp=cp, tp=tp, ep=ep, etp=etp)


def _most_stages(model: ModelSpec, fixed: Fixed) -> int:
    """Return the largest `pp`. Stages without a layer, for embedding or head alone, are not searched."""
    return model.layer_count if fixed.stages is None else len(fixed.stages)


def _cuts_sequence(model: ModelSpec, training: TrainingSpec, fixed: Fixed, tp: int, cp: int) -> bool:
    """Whether `cp` divides the sequence, and also the heads where its kind requires that."""
    kind, split = fixed.context_parallel or "all-gather", tp > 1 and fixed.sequence_parallel is not False
    try:
        check_context_parallel(cp, tp, kind, model, training, sequence_parallel=split)
    except SpecError:
        return False
    return True


def _tensor_degrees(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Return degrees that divide the model and stay inside a node, where links are fast; a fixed one may leave it."""
    if fixed.tp is not None:
        return [fixed.tp] if cluster.devices % fixed.tp == 0 else []
    split_sequence = fixed.sequence_parallel is not False
    sizes = tensor_parallel_sizes(model, training, sequence_parallel=split_sequence).values()
    return [
        tp
        for tp in divisors(cluster.devices)
        if tp <= cluster.node.devices_per_node and all(size % tp == 0 for size in sizes)
    ]


def _shard_degrees(dp: int, tp: int, cp: int, cluster: ClusterSpec, fixed: Fixed) -> list[int]:
    """Return the ways to split dp into replicas. Shard groups of a large dp
    are single ranks, whole nodes or all of dp."""
    degrees = divisors(dp)
    fixed_split = fixed.dp_shard is not None or fixed.dp_replicate is not None
    if dp > _SPLIT_FREELY_UP_TO and not fixed_split:
        per_node = cluster.node.devices_per_node
        degrees = [d for d in degrees if d in (1, dp) or (d * cp * tp) % per_node == 0]
    if fixed.zero_stage is not None:
        degrees = [d for d in degrees if (d == 1 if fixed.zero_stage == 0 else d * cp > 1)]
    return [d for d in degrees if fixed.dp_shard in (None, d) and fixed.dp_replicate in (None, dp // d)]
