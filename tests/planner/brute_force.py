"""Every plan of a small problem, priced by the cost model: the oracle that the search must equal."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations, pairwise, product
from math import gcd
from typing import TypeVar

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.choices import AXES
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import PIPELINE_OUTERMOST, Mesh, MeshOrder
from shardwright.specs.model.feed_forward import MixtureOfExperts
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import (
    CONTEXT_PARALLEL,
    POLICIES,
    ContextParallel,
    LayerRun,
    Offload,
    Plan,
    Stage,
    Strategy,
    ZeroStage,
)
from shardwright.specs.schedules import ScheduleName, splits_backward
from shardwright.specs.training import TrainingSpec
from tests.planner.priced_plans import priced_plans

_Value = TypeVar("_Value", bound=float | str)

_ZERO_STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)
_SEVERAL: tuple[ScheduleName, ...] = ("interleaved-1f1b", "breadth-first")
_IN_A_V: tuple[ScheduleName, ...] = ("zb-v", "v-half", "v-min", "dualpipe-v")
_EIGHTHS = tuple(step / 8 for step in range(9))


def all_plans(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Plan]:
    """Every valid plan on all devices that keeps what is fixed.

    Of plans that differ in nothing but the order of one stage's recompute policies among equal layers only one is given.
    """
    shares = _kept(fixed, "offload_activations", _shares("offload_activations", fixed))
    policies = tuple(Strategy(policy, share) for policy in _kept(fixed, "recompute", POLICIES) for share in shares)
    zero_stages = _kept(fixed, "zero_stage", _ZERO_STAGES)
    micro_batches = _kept(fixed, "micro_batch", range(1, training.global_batch + 1))
    offloads = _kept(fixed, "offload_optimizer", _shares("offload_optimizer", fixed))
    offloads = [share for share in offloads if share > 0 or not fixed.delayed_update]
    for mesh in _meshes(model, cluster, training, fixed):
        spread = training.software.runs.vocabulary_parallel if mesh.pp > 1 else ()
        for zero_stage, micro_batch, (schedule, chunks), offload, (kind, degree), vocabulary, sync in product(
            zero_stages,
            [size for size in micro_batches if training.global_batch % (size * mesh.dp) == 0],
            _schedules(mesh.pp, model.layer_count, fixed),
            offloads,
            _exchanges(mesh.cp, fixed),
            _kept(fixed, "vocabulary_parallel", ("none", *spread)),
            fixed.syncs,
        ):
            sequences = micro_batch * mesh.dp
            if _is_left_out(mesh, zero_stage, micro_batch, fixed):
                continue
            same_as_1f1b = mesh.pp == 1 or training.global_batch == sequences
            if schedule == "gpipe" and fixed.schedule is None and same_as_1f1b:
                continue
            gains = zero_stage >= 2 and training.global_batch > sequences
            if schedule == "breadth-first" and fixed.schedule is None and not gains:
                continue
            if vocabulary != "none" and schedule not in ("gpipe", "1f1b", "v-half"):
                continue
            allowed = policies
            if splits_backward(schedule) or chunks > 1:
                allowed = tuple(strategy for strategy in policies if not strategy.activation_offload)
            if splits_backward(schedule):
                allowed = _split_policies(schedule, mesh, zero_stage, allowed, model, training, fixed)
            for stages in _all_stages(model.class_of_layer, mesh.pp * chunks, zero_stage, allowed):
                if fixed.even_stages and len({stage.layer_count for stage in stages}) > 1:
                    continue
                try:
                    yield Plan(
                        mesh=mesh,
                        micro_batch=micro_batch,
                        microbatches=training.global_batch // sequences,
                        schedule=schedule,
                        stages=stages,
                        sequence_parallel=mesh.tp > 1 and fixed.sequence_parallel is not False,
                        context_parallel=kind,
                        ulysses_degree=degree,
                        vocabulary_parallel=vocabulary,
                        offload=Offload(optimizer_fraction=offload, delayed_update=bool(fixed.delayed_update)),
                        sync=sync,
                    )
                except ValueError:  # no interleaved schedule for these numbers, or no replicas that could agree so
                    break


def _split_policies(
    schedule: ScheduleName,
    mesh: Mesh,
    zero_stage: ZeroStage,
    policies: tuple[Strategy, ...],
    model: ModelSpec,
    training: TrainingSpec,
    fixed: Fixed,
) -> tuple[Strategy, ...]:
    """Of `policies` those that the software runs with a schedule that splits the backward; none where it runs no such plan."""
    split, in_a_v = training.software.runs.split_backward, schedule not in ("zb-h1", "zb-2p")
    if schedule not in training.software.runs.schedules or (mesh.pp == 1 and fixed.schedule is None):
        return ()
    if (mesh.pp > 1 and zero_stage not in split.zero_stages) or (
        model.tied_embeddings and in_a_v and not split.tied_in_a_v
    ):
        return ()
    return tuple(strategy for strategy in policies if strategy.recompute in split.recompute)


def _kept(fixed: Fixed, choice: str, options: Iterable[_Value]) -> list[_Value]:
    """Those of `options` that a choice may take."""
    return [option for option in options if fixed.allows(choice, option)]


def _shares(choice: str, fixed: Fixed) -> tuple[float, ...]:
    """Eighths where shares are asked for; else the optimizer moves as a whole, and activations stay."""
    if fixed.gives(choice):
        return _EIGHTHS
    return (0, 1) if choice == "offload_optimizer" else (0,)


def _is_left_out(mesh: Mesh, zero_stage: int, micro_batch: int, fixed: Fixed) -> bool:
    """ZeRO over one rank, no ZeRO over shards, and microbatches of several sequences that cp cuts."""
    if mesh.cp > 1 and micro_batch > 1 and not (fixed.gives("micro_batch") and fixed.gives("cp")):
        return True
    return mesh.dp_shard > 1 if zero_stage == 0 else mesh.shard_ranks == 1


def fastest(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes | None = None
) -> float | None:
    """Seconds of the fastest plan that fits; None where none does."""
    plans = all_plans(model, cluster, training, fixed)
    if cluster.is_mixed:
        return min(one_by_one(model, cluster, training, plans, times), default=None)
    each = priced_plans(model, cluster, training, plans, times)
    return min((float(some.step_seconds[some.fits].min()) for some in each if some.fits.any()), default=None)


def one_by_one(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plans: Iterable[Plan], times: OpTimes | None = None
) -> Iterator[float]:
    """Yield the steps of the plans that the cost model accepts and that fit, each estimated on its own."""
    for plan in plans:
        try:
            estimate = estimate_plan(model, cluster, training, plan, times)
            check_memory(estimate, cluster)
        except (SpecError, InfeasibleError):
            continue
        yield estimate.step_seconds


def _exchanges(cp: int, fixed: Fixed) -> list[tuple[ContextParallel, int]]:
    """Where nothing is exchanged, any way that is allowed stands for all."""
    if cp == 1:
        ways: list[tuple[ContextParallel, int]] = [(fixed.context_parallel or CONTEXT_PARALLEL[0], 1)]
    else:
        ways = [(kind, 1) for kind in CONTEXT_PARALLEL if kind != "ulysses-ring"]
        ways += [("ulysses-ring", of) for of in range(2, cp) if cp % of == 0]
    return [way for way in ways if fixed.allows("context_parallel", way[0]) and fixed.allows("ulysses_degree", way[1])]


def _meshes(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Mesh]:
    """Tensor parallelism stays in a node, and context parallelism leaves 2,048 tokens, unless they are asked for."""
    order: MeshOrder = fixed.order or PIPELINE_OUTERMOST
    degrees = range(1, cluster.devices + 1)
    ffns = [block.ffn for block in model.layer_classes]
    experts = {ffn.experts for ffn in ffns if isinstance(ffn, MixtureOfExperts)} or {1}
    split = [training.seq_len] + [
        size for block in model.layer_classes for size in (block.attention.heads, block.attention.kv_heads)
    ]
    for pp, replicate, shard, cp, tp in product(degrees, repeat=5):
        if pp * replicate * shard * cp * tp != cluster.devices or pp > model.layer_count:
            continue
        per_node = gcd(*(group.devices_per_node for group in cluster.groups))
        inside = (fixed.gives("tp") or per_node % tp == 0) and all(size % tp == 0 for size in split)
        if not inside or (cp > 1 and training.seq_len < 2048 * cp and not fixed.gives("cp")):
            continue
        for ep, etp in product(range(1, max(experts) + 1), {0, tp} - {1}):
            if any(count % ep for count in experts) or (etp and tp // gcd(tp, ep) == etp):
                continue
            try:
                mesh = Mesh(pp=pp, dp_replicate=replicate, dp_shard=shard, cp=cp, tp=tp, ep=ep, etp=etp, order=order)
            except ValueError:  # experts that do not fold
                continue
            if not all(fixed.allows(name, getattr(mesh, name)) for name in AXES):
                continue
            if order == PIPELINE_OUTERMOST or pp == 1 or mesh.same_experts == mesh.dp:  # else Megatron-Core refuses it
                yield mesh


def _schedules(pp: int, layers: int, fixed: Fixed) -> list[tuple[ScheduleName, int]]:
    """Of stages that differ by a layer at most two, or one in eight, are shorter, as the planner's space has it."""
    chunks = [
        count for count in range(2, layers // pp + 1) if pp > 1 and -layers % (pp * count) <= max(2, pp * count // 8)
    ]
    split: list[tuple[ScheduleName, int]] = [("zb-h1", 1), ("zb-2p", 1)]
    split += [(name, 2) for name in _IN_A_V if 2 in chunks]
    several: list[tuple[ScheduleName, int]] = [(name, count) for name in _SEVERAL for count in chunks]
    every: list[tuple[ScheduleName, int]] = [("1f1b", 1), ("gpipe", 1), *several, *split]
    return [one for one in every if fixed.allows("schedule", one[0]) and fixed.allows("stages_per_rank", one[1])]


@lru_cache(maxsize=256)
def _all_stages(
    class_of_layer: tuple[int, ...], count: int, zero_stage: ZeroStage, policies: tuple[Strategy, ...]
) -> list[tuple[Stage, ...]]:
    layers, found = len(class_of_layer), []
    for cuts in combinations(range(1, layers), count - 1):
        ranges = list(pairwise((0, *cuts, layers)))
        for choice in product(policies, repeat=layers):
            if all(_ordered(class_of_layer[start:end], choice[start:end], policies) for start, end in ranges):
                found.append(tuple(_stage(choice[start:end], zero_stage) for start, end in ranges))
    return found


@lru_cache(maxsize=4096)
def _stage(strategies: tuple[Strategy, ...], zero_stage: ZeroStage) -> Stage:
    return Stage(layers=tuple(LayerRun(count=1, zero_stage=zero_stage, **one._asdict()) for one in strategies))


def _ordered(classes: tuple[int, ...], chosen: tuple[Strategy, ...], strategies: tuple[Strategy, ...]) -> bool:
    """Whether equal layers of a stage have their strategies in order."""
    last: dict[int, int] = {}
    for kind, strategy in zip(classes, chosen, strict=True):
        place = strategies.index(strategy)
        if place < last.get(kind, 0):
            return False
        last[kind] = place
    return True
