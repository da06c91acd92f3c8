"""The same ranks without some axes: what a target lacks becomes data parallelism."""

import math
from collections.abc import Collection

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.specs import LayerRun, Plan, Stage

from .flat import canonical

FOLDED = ("pp", "cp", "tp")


def folded(plan_file: PlanFile, axes: Collection[str]) -> PlanFile:
    """Return a plan on as many ranks that has none but `axes` beside data parallelism.

    The ranks of an axis that goes shard what the plan shards, else they hold copies. The microbatch shrinks until the batch
    divides.

    Raises:
        SpecError: the batch does not divide over the data-parallel ranks.
    """
    plan = plan_file.plan
    mesh, gone = plan.mesh, [axis for axis in FOLDED if axis not in axes]
    ranks = math.prod(getattr(mesh, axis) for axis in gone)
    keeps_experts = "ep" in axes and mesh.ep > 1 and "tp" in axes
    if ranks == 1 and (keeps_experts or mesh.ep == 1):
        return plan_file
    grows = "dp_shard" if plan.zero_stage else "dp_replicate"
    degrees = dict(mesh) | dict.fromkeys(gone, 1) | {grows: getattr(mesh, grows) * ranks}
    if not keeps_experts:
        degrees |= {"ep": 1, "etp": 0}
    dp = degrees["dp_replicate"] * degrees["dp_shard"]
    whole = plan.global_batch
    if whole % dp:
        raise SpecError(
            f"without {' and '.join(axis for axis in gone if getattr(mesh, axis) > 1)} there are {dp} data-parallel ranks, which do not "
            f"divide the global batch of {whole}"
        )
    micro = math.gcd(plan.micro_batch, whole // dp)
    changes = {"mesh": degrees, "micro_batch": micro, "microbatches": whole // (dp * micro)}
    if "pp" in gone and mesh.pp > 1:
        runs: list[LayerRun] = [run for stage in plan.stages for run in stage.layers]
        changes |= {"stages": (Stage(layers=tuple(runs)),), "schedule": "1f1b", "vocabulary_parallel": "none"}
    changes |= {"context_parallel": "all-gather", "ulysses_degree": 1} if "cp" in gone else {}
    changed = Plan.parse(dict(plan) | changes, source="the plan without these axes")
    return plan_file.model_copy(update={"plan": canonical(changed), "estimate": None})
