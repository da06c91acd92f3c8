"""Every plan of a small problem, each through the cost model's own estimate: the oracle that the search must equal."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Literal

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES, LayerRun, Offload, Plan, RecomputePolicy, Stage, ZeroStage
from shardwright.specs.schedules import ScheduleName
from shardwright.specs.training import TrainingSpec

_ZERO_STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)
_OFFLOADS: tuple[Literal[0, 1], ...] = (0, 1)


def all_plans(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Plan]:
    """Every valid plan on all devices that keeps what is fixed.

    Of plans that differ in nothing but the order of one stage's recompute policies among equal layers only one is given.
    """
    policies = POLICIES if fixed.recompute is None else (fixed.recompute,)
    for mesh in _meshes(model, cluster, training):
        for zero_stage, micro_batch, (schedule, chunks), offload in product(
            _ZERO_STAGES, range(1, training.global_batch + 1), _schedules(mesh.pp, model.layer_count, fixed), _OFFLOADS
        ):
            sequences = micro_batch * mesh.dp
            choice = {"zero_stage": zero_stage, "micro_batch": micro_batch, "schedule": schedule}
            choice |= {"stages_per_rank": chunks, "offload_optimizer": offload}
            choice |= {name: getattr(mesh, name) for name in ("tp", "pp", "dp_replicate", "dp_shard")}
            kept = all(getattr(fixed, name) in (None, value) for name, value in choice.items())
            if not kept or training.global_batch % sequences or (zero_stage == 0) != (mesh.dp_shard == 1):
                continue
            for stages in _all_stages(model.class_of_layer, mesh.pp * chunks, zero_stage, policies):
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
                        offload=Offload(optimizer_fraction=offload),
                    )
                except ValueError:  # an interleaved schedule that does not exist for these numbers
                    break


def fastest(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes | None = None
) -> float | None:
    """Seconds of the fastest plan that fits; None where none does."""
    best: float | None = None
    for plan in all_plans(model, cluster, training, fixed):
        try:
            estimate = estimate_plan(model, cluster, training, plan, times)
            check_memory(estimate, cluster)
        except (SpecError, InfeasibleError):
            continue
        if best is None or estimate.step_seconds < best:
            best = estimate.step_seconds
    return best


def _meshes(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> Iterator[Mesh]:
    degrees = range(1, cluster.devices + 1)
    split = [training.seq_len] + [
        size for block in model.layer_classes for size in (block.attention.heads, block.attention.kv_heads)
    ]
    for pp, replicate, shard, tp in product(degrees, repeat=4):
        inside = tp <= cluster.groups[0].devices_per_node and all(size % tp == 0 for size in split)
        if pp * replicate * shard * tp == cluster.devices and pp <= model.layer_count and inside:
            yield Mesh(pp=pp, dp_replicate=replicate, dp_shard=shard, tp=tp)


def _schedules(pp: int, layers: int, fixed: Fixed) -> list[tuple[ScheduleName, int]]:
    """GPipe only where it is fixed, as the planner's space has it."""
    chunks = range(2, layers // pp + 1) if pp > 1 else range(0)
    gpipe: list[tuple[ScheduleName, int]] = [("gpipe", 1)] if fixed.schedule == "gpipe" else []
    return [("1f1b", 1), *gpipe, *(("interleaved-1f1b", count) for count in chunks)]


@lru_cache(maxsize=256)
def _all_stages(
    class_of_layer: tuple[int, ...], count: int, zero_stage: ZeroStage, policies: tuple[RecomputePolicy, ...]
) -> list[tuple[Stage, ...]]:
    layers, found = len(class_of_layer), []
    for cuts in combinations(range(1, layers), count - 1):
        ranges = list(pairwise((0, *cuts, layers)))
        for choice in product(policies, repeat=layers):
            if all(_ordered(class_of_layer[start:end], choice[start:end]) for start, end in ranges):
                found.append(tuple(_stage(choice[start:end], zero_stage) for start, end in ranges))
    return found


@lru_cache(maxsize=4096)
def _stage(policies: tuple[RecomputePolicy, ...], zero_stage: ZeroStage) -> Stage:
    return Stage(layers=tuple(LayerRun(count=1, recompute=policy, zero_stage=zero_stage) for policy in policies))


def _ordered(classes: tuple[int, ...], policies: tuple[RecomputePolicy, ...]) -> bool:
    """Whether equal layers of a stage have their policies in order."""
    last: dict[int, int] = {}
    for kind, policy in zip(classes, policies, strict=True):
        place = POLICIES.index(policy)
        if place < last.get(kind, 0):
            return False
        last[kind] = place
    return True
