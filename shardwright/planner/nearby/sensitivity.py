"""How a plan's step changes with its surroundings: the memory of a device, the links, the batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

_TIME_LIMIT_SECONDS = 2.0
_MEMORY = (0.8, 0.9, 1.25)
_TIMES = (0.5, 2.0)


@dataclass(frozen=True)
class Sensitivity:
    """The same plan in other surroundings, where its layers are dealt to stages and recomputed anew.

    Attributes:
        what: the change, in words.
        estimate: of the plan there; None where it does not fit or divide, and `reason` then says why.
        work: sequences of a step over those of the job.
    """

    what: str
    estimate: Estimate | None
    reason: str = ""
    work: float = 1.0


def sensitivities(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan
) -> tuple[Sensitivity, ...]:
    """Search the plan's own mesh, ZeRO stage, microbatch and schedule again with less and more memory, slower and faster links, and
    half and twice the batch. Empty on a mixed cluster, whose plans are not searched with a fixed mesh.

    Links change only where their rates come from the catalog: a profile has measured times of collectives.
    """
    if cluster.is_mixed or plan.replicas or plan.vocabulary_parallel == "interlaced":
        return ()
    fixed = Fixed.of(plan).but(stages=None, recompute=None)
    found = []
    for what, somewhere, batch in _changes(cluster, training, plan):
        job = training.model_copy(update={"global_batch": batch})
        work = batch / training.global_batch
        try:
            best = search(
                model,
                somewhere,
                job,
                fixed=fixed,
                time_limit_seconds=_TIME_LIMIT_SECONDS,
                runners_up=0,
                explain_none="nothing",
            )
            found.append(Sensitivity(what, best.estimate, work=work))
        except InfeasibleError:
            found.append(Sensitivity(what, None, "does not fit with this mesh and schedule", work))
        except SpecError:
            found.append(Sensitivity(what, None, "does not divide", work))
    return tuple(found)


def _changes(cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Iterator[tuple[str, ClusterSpec, int]]:
    """Yield the change in words, the cluster and the batch."""
    group, batch = cluster.groups[0], training.global_batch
    if group.device.has_own_memory:
        for factor in _MEMORY:
            device = group.device.model_copy(update={"memory_bytes": factor * group.device.memory_bytes})
            yield f"{factor - 1:+.0%} memory of a device", _with(cluster, device=device), batch
    if group.profile is None:
        for factor in _TIMES:
            if group.devices_per_node > 1:
                link = group.intra_node.model_copy(update={"bytes_per_s": factor * group.intra_node.bytes_per_s})
                yield f"{_words(factor)} the {link.kind} rate", _with(cluster, intra_node=link), batch
            if group.nic is not None and group.nodes > 1:
                nic = group.nic.model_copy(update={"bytes_per_s": factor * group.nic.bytes_per_s})
                yield f"{_words(factor)} the rate between nodes", _with(cluster, nic=nic), batch
    for factor in _TIMES:
        if factor * batch == int(factor * batch):
            yield f"{_words(factor)} the batch", cluster, int(factor * batch)


def _words(factor: float) -> str:
    return "half" if factor < 1 else "twice"


def _with(cluster: ClusterSpec, **changes: Any) -> ClusterSpec:
    return cluster.model_copy(update={"groups": (cluster.groups[0].model_copy(update=changes),)})
