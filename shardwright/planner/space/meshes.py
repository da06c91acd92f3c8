"""Meshes of the space: every degree that divides model, batch and cluster and keeps the fixed choices."""

from collections.abc import Iterator
from itertools import product
from math import gcd
from typing import NamedTuple

from shardwright.base import SpecError, divisors
from shardwright.costmodel import check_context_parallel, check_expert_parallel, check_tensor_parallel, ulysses_degrees
from shardwright.specs import (
    CONTEXT_PARALLEL,
    PIPELINE_INSIDE_DATA,
    ClusterSpec,
    ContextParallel,
    TrainingSpec,
    experts_fold,
)
from shardwright.specs.model import MixtureOfExperts, ModelSpec

from .fixed import Fixed

# Data-parallel groups of at most this size are split in every way, larger ones at node boundaries only.
_SPLIT_FREELY_UP_TO = 8

# Open degrees of cp leave a rank this many tokens of a sequence: half of the fewest in published runs, NVIDIA's recipes that
# cut 8,192 tokens in two. Fewer make each kernel short beside its launch.
_FEWEST_TOKENS = 2048


class Degrees(NamedTuple):
    """The degrees of a `Mesh`, without its checks: a space has tens of thousands."""

    pp: int
    dp_replicate: int
    dp_shard: int
    cp: int
    tp: int
    ep: int
    etp: int

    @property
    def dp(self) -> int:
        return self.dp_replicate * self.dp_shard

    @property
    def shard_ranks(self) -> int:
        return self.dp_shard * self.cp

    @property
    def data_ranks(self) -> int:
        return self.dp * self.cp


def meshes_of(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Degrees]:
    """Yield every mesh; the same degrees come once."""
    for tp, cp in product(_tensor_degrees(cluster, training, fixed), _context_degrees(cluster, training, fixed)):
        if cluster.devices % (tp * cp) or not context_exchanges(model, cluster, training, fixed, tp, cp):
            continue
        experts = [
            pair
            for pair in _expert_degrees(tp, model, training, fixed)
            if _divides_model(tp, *pair, model, training, fixed)
        ]
        if not experts:
            continue
        for pp in divisors(cluster.devices // (tp * cp)):
            if pp > _most_stages(model, training, fixed) or not fixed.allows("pp", pp):
                continue
            dp = cluster.devices // (tp * cp * pp)
            if training.global_batch % dp:
                continue
            for dp_shard in _shard_degrees(dp, tp, cp, cluster, fixed):
                for ep, etp in experts:
                    ordered = fixed.order != PIPELINE_INSIDE_DATA or pp == 1 or experts_fill_block(tp, cp, ep, etp)
                    if ordered and experts_fold(dp_shard * cp * tp, tp, ep, etp):
                        yield Degrees(pp, dp // dp_shard, dp_shard, cp, tp, ep, etp)


def experts_fill_block(tp: int, cp: int, ep: int, etp: int) -> bool:
    """Whether the ranks of all experts are those of one block of cp * tp. Megatron-Core lays the pipeline inside data parallelism
    only then (parallel_state.py: the data-parallel degrees of attention and of experts must be equal).
    """
    return ep * (etp or tp // gcd(tp, ep)) == tp * cp


def has_experts(model: ModelSpec) -> bool:
    return any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)


def _most_stages(model: ModelSpec, training: TrainingSpec, fixed: Fixed) -> int:
    """Return the largest `pp`. Stages without a layer, for embedding or head alone, are not searched."""
    if fixed.stages is not None:
        return len(fixed.stages)
    return model.layer_count if training.software.runs.schedules or fixed.pp else 1


def _context_degrees(cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[int]:
    if fixed.cp is not None:
        return [fixed.cp]
    degrees = divisors(cluster.devices) if training.software.runs.context_parallel else [1]
    short = fixed.gives("cp")
    degrees = [cp for cp in degrees if cp == 1 or short or training.seq_len >= _FEWEST_TOKENS * cp]
    return [cp for cp in degrees if fixed.allows("cp", cp)]


Exchange = tuple[ContextParallel, int]
"""How ranks exchange keys and values, and how many of them trade heads in front of a ring."""


def context_exchanges(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, tp: int, cp: int
) -> list[Exchange]:
    """Return the ways in which `cp` ranks can exchange keys and values; one way where cp is 1, none where cp does not divide."""
    runs = training.software.runs.context_parallel or CONTEXT_PARALLEL
    kinds: tuple[ContextParallel, ...] = fixed.allowed("context_parallel", runs)
    if cp == 1:
        return [(kind, 1) for kind in kinds[:1] or runs[:1] if fixed.allows("ulysses_degree", 1)]
    split = tp > 1 and fixed.sequence_parallel is not False
    return [
        (kind, degree)
        for kind in kinds
        for degree in (_ulysses_degrees(model, cluster, fixed, tp, cp) if kind == "ulysses-ring" else [1])
        if fixed.allows("ulysses_degree", degree) and _divides_context(cp, tp, kind, degree, model, training, split)
    ]


def _ulysses_degrees(model: ModelSpec, cluster: ClusterSpec, fixed: Fixed, tp: int, cp: int) -> list[int]:
    """Return the largest group that trades whole KV heads within a domain of fast links, or those that the user names."""
    inside = [degree for degree in ulysses_degrees(tp, model) if 1 < degree < cp and cp % degree == 0]
    if fixed.gives("ulysses_degree"):
        return inside
    kv_heads = gcd(*(block.attention.kv_heads for block in model.layer_classes))
    near = [d for d in inside if kv_heads % (d * tp) == 0 and cluster.node.devices_per_node % (d * tp) == 0]
    return near[-1:]


def _divides_context(
    cp: int, tp: int, kind: ContextParallel, degree: int, model: ModelSpec, training: TrainingSpec, split: bool
) -> bool:
    try:
        check_context_parallel(cp, tp, kind, model, training, sequence_parallel=split, ulysses_degree=degree)
    except SpecError:
        return False
    return True


def _tensor_degrees(cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Return degrees whose groups stay inside one domain of fast links: a server, or a rack of several hosts. One that the
    user states may leave it. A degree that does not divide the domain would lay some groups over two.
    """
    if fixed.tp is not None:
        return [fixed.tp] if cluster.devices % fixed.tp == 0 else []
    degrees = divisors(cluster.devices) if training.software.runs.tensor_parallel else [1]
    inside = [tp for tp in degrees if fixed.gives("tp") or cluster.node.devices_per_node % tp == 0]
    return [tp for tp in inside if fixed.allows("tp", tp)]


def _expert_degrees(tp: int, model: ModelSpec, training: TrainingSpec, fixed: Fixed) -> list[tuple[int, int]]:
    """Return pairs of ep and etp. An open etp is what ep leaves of tp, or tp."""
    if fixed.ep is not None:
        degrees = [fixed.ep]
    else:
        counts = [block.ffn.experts for block in model.layer_classes if isinstance(block.ffn, MixtureOfExperts)]
        degrees = divisors(gcd(*counts)) if counts and training.software.runs.expert_dispatch else [1]
        degrees = [ep for ep in degrees if fixed.allows("ep", ep)]
    stated = fixed.gives("etp")
    etps = [0, *divisors(tp)] if stated else [0, tp] if tp > 1 else [0]
    found = [(ep, etp) for ep in degrees for etp in fixed.allowed("etp", etps)]
    split_sequence = tp == 1 or fixed.sequence_parallel is not False  # else each rank would send every token
    found = [(ep, etp) for ep, etp in found if ep == 1 or split_sequence]
    return [(ep, etp) for ep, etp in found if etp == 0 or (ep > 1 and (stated or tp // gcd(tp, ep) != etp))]


def _divides_model(tp: int, ep: int, etp: int, model: ModelSpec, training: TrainingSpec, fixed: Fixed) -> bool:
    """Whether tp divides heads, widths and the sequence, and what shares an expert divides its columns and may share them."""
    split = tp > 1 and fixed.sequence_parallel is not False
    shared = etp or tp // gcd(tp, ep)
    try:
        check_tensor_parallel(tp, model, training, sequence_parallel=split, expert_tp=shared)
        check_expert_parallel(ep, shared, model, training)
    except SpecError:
        return False
    return True


def _shard_degrees(dp: int, tp: int, cp: int, cluster: ClusterSpec, fixed: Fixed) -> list[int]:
    """Return the ways to split dp into replicas. Shard groups of a large dp
    are single ranks, whole nodes or all of dp."""
    degrees = divisors(dp)
    fixed_split = fixed.gives("dp_shard") or fixed.gives("dp_replicate")
    if dp > _SPLIT_FREELY_UP_TO and not fixed_split:
        per_node = cluster.node.devices_per_node
        degrees = [d for d in degrees if d in (1, dp) or (d * cp * tp) % per_node == 0]
    if fixed.gives("zero_stage"):
        zeros = fixed.allowed("zero_stage", (0, 1, 2, 3))
        degrees = [d for d in degrees if any(d == 1 if zero == 0 else d * cp > 1 for zero in zeros)]
    return [d for d in degrees if fixed.allows("dp_shard", d) and fixed.allows("dp_replicate", dp // d)]
