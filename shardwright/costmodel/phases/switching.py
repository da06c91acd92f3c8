"""The seconds from the last step under one plan to the first under the next.

Symbols: S bytes of a checkpoint (trained parameters with the state of the optimizer); n ranks; c ranks that hold the same part of S; w and r
bytes/s that the storage of checkpoints writes and reads; h bytes/s of a device's link to its host; t seconds in which ranks leave the process
group, join it again and build the model.
"""

from typing import Literal, NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel.layers import adapter_parameters
from shardwright.costmodel.optimizers import state_bytes_per_element
from shardwright.specs import ClusterSpec, NonNegativeFloat, Plan, PositiveFloat, Spec, TrainingSpec
from shardwright.specs.model import ModelSpec

Kind = Literal["none", "memory", "checkpoint"]


class Switching(Spec):
    """What a change of plans takes beside the bytes that it moves. Nothing here has a source: each site measures its own.

    build_seconds: ranks leave the process group, join it again and build the model; None counts as 0.
    write_bytes_per_s, read_bytes_per_s: of the storage that holds checkpoints, over all ranks. None: of the drives of the host, where the
        cluster has one host with drives.
    """

    build_seconds: NonNegativeFloat | None = None
    write_bytes_per_s: PositiveFloat | None = None
    read_bytes_per_s: PositiveFloat | None = None

    def rates(self, cluster: ClusterSpec) -> tuple[float, float]:
        """Bytes/s at which a checkpoint is written and read.

        Raises:
            SpecError: they are not given, and the cluster has several hosts or no drives.
        """
        given, host = (self.write_bytes_per_s, self.read_bytes_per_s), cluster.groups[0].host
        drives = (host.nvme_write_bytes_per_s, host.nvme_read_bytes_per_s)
        alone = not cluster.is_mixed and cluster.devices <= cluster.node.devices_per_host
        names = ("write_bytes_per_s", "read_bytes_per_s")
        found = []
        for name, rate, drive in zip(names, given, drives, strict=True):
            if rate is None and not (alone and drive):
                why = "one host has no drives in its description" if alone else "its hosts share no drives"
                raise SpecError(
                    f"{cluster.name}: {why}, so where checkpoints lie is not known; give {name} of their storage, under [switching] in the "
                    "file of the phases"
                )
            found.append(rate or drive)
        return found[0], found[1]


class Switch(NamedTuple):
    """A change from one plan to the next, and its seconds.

    kind: "none" where nothing changes, "memory" where every rank keeps what it holds, "checkpoint" where the state is written under one plan
    and read under the other.
    """

    kind: Kind
    seconds: float


def same_placement(first: Plan, second: Plan) -> bool:
    """Whether every rank holds the same elements of parameters and optimizer state under both plans, on the device alone.

    Microbatches, recompute and how the sequence is divided may differ.
    """
    both = (first, second)
    if any(
        plan.offload.optimizer_fraction or plan.offload.parameter_fraction or plan.sync.approximate for plan in both
    ):
        return False
    return _placement(first) == _placement(second)


def _placement(plan: Plan) -> tuple[object, ...]:
    layers = tuple(tuple(layer.zero_stage > 0 for layer in stage.each_layer()) for stage in plan.stages)
    return plan.mesh, layers, tuple(plan.stage_ranks), plan.vocabulary_parallel


def state_bytes(model: ModelSpec, training: TrainingSpec) -> float:
    """S: parameters that are trained, in their own format, with the state that the optimizer keeps of each element.

    What whole-matrix methods keep is counted as AdamW's two states, which none of them exceeds by much.
    """
    element = training.precision.parameter_bytes_per_element
    return _trained(model, training) * (element + state_bytes_per_element(training.method, element))


def _trained(model: ModelSpec, training: TrainingSpec) -> float:
    trainable = training.trainable
    if trainable.has_adapters:
        return adapter_parameters(model, training)
    if trainable.trains_all:
        return model.parameter_count
    runs = (run for run in model.trained_as(trainable).blocks if not run.block.frozen)
    layers = sum(run.count * sum(p.elements for p in run.block.parameters(model.hidden_size)) for run in runs)
    return layers + (sum(p.elements for p in model.head_parameters()) if trainable.head else 0)


class Job(NamedTuple):
    """What is trained under which plan."""

    model: ModelSpec
    training: TrainingSpec
    plan: Plan


def switch_between(cluster: ClusterSpec, first: Job, second: Job, given: Switching) -> Switch:
    """Return the change from the first job and plan to the second.

        memory:      t + 2 (S c / n) / h
        checkpoint:  t + S / w + (S + S' c) / r

    In memory each rank copies its part to the host and back. A checkpoint is written once. It is read once for its checksums, and then by
    every rank its part of it, c copies in all. S' is S unless the model grows: then it counts that of the grown one.

    Raises:
        SpecError: a checkpoint is needed, and the rates of its storage are not known.
    """
    if first == second:
        return Switch("none", 0.0)
    build, size = given.build_seconds or 0.0, state_bytes(first.model, first.training)
    plan = second.plan
    copies = plan.mesh.dp_replicate if plan.zero_stage else plan.mesh.data_ranks
    if first.model == second.model and same_placement(first.plan, plan):
        per_rank = size * copies / plan.mesh.ranks
        return Switch("memory", build + 2 * per_rank / cluster.groups[0].host_link.bytes_per_s)
    write, read = given.rates(cluster)
    return Switch(
        "checkpoint", build + size / write + (size + state_bytes(second.model, second.training) * copies) / read
    )
