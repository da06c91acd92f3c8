"""The estimate: the predicted step time, its parts, the memory, and how sure that is."""

from typing import Literal

from shardwright.base import units
from shardwright.specs.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, Spec


class StepSeconds(Spec):
    """Seconds of one optimizer step on the pipeline rank that bounds it, by cause; only exposed communication counts."""

    compute: NonNegativeFloat
    recompute: NonNegativeFloat
    tensor_parallel: NonNegativeFloat
    context_parallel: NonNegativeFloat = 0.0
    expert_parallel: NonNegativeFloat = 0.0
    data_parallel: NonNegativeFloat
    pipeline_transfer: NonNegativeFloat
    pipeline_bubble: NonNegativeFloat
    host_copy: NonNegativeFloat
    straggler: NonNegativeFloat
    optimizer: NonNegativeFloat

    @property
    def total(self) -> float:
        return float(sum(seconds for _, seconds in self))


class MemoryBytes(Spec):
    """Bytes on one device of a pipeline rank at its peak, by part; `total` is what must fit.

    Activations, logits and gathered layers are alive in the passes, `optimizer_step` in the update. The moment that needs
    more is shown, and parts that are not alive then are 0. There are three readings. `allocated` counts tensors (torch's
    max_memory_allocated). `reserved` adds what the caching allocator holds without use (max_memory_reserved). `total` adds
    what is outside of torch's allocator, as nvidia-smi shows it.
    """

    parameters: NonNegativeFloat
    gathered_parameters: NonNegativeFloat
    gradients: NonNegativeFloat
    optimizer_state: NonNegativeFloat
    optimizer_step: NonNegativeFloat = 0.0
    activations: NonNegativeFloat
    logits: NonNegativeFloat
    communication_buffers: NonNegativeFloat
    allocator_slack: NonNegativeFloat
    communicators: NonNegativeFloat = 0.0
    context: NonNegativeFloat

    @property
    def total(self) -> float:
        return float(sum(size for _, size in self))

    @property
    def reserved(self) -> float:
        """What torch's allocator has taken from the device."""
        return self.total - self.communicators - self.context

    @property
    def allocated(self) -> float:
        """What tensors occupy."""
        return self.reserved - self.allocator_slack

    def within(self, capacity_bytes: float) -> float:
        """What a device of this capacity holds: where it is full, the caching allocator gives blocks without use back."""
        return min(self.total, max(self.total - self.allocator_slack, capacity_bytes))


class Interval(Spec):
    """The true value lies between `low` and `high` with probability `level`."""

    level: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat


class Estimate(Spec):
    """Prediction for one plan. `memory`, `host_bytes` and `nvme_bytes` are per pipeline rank (one device, its share of the host).

    Where data parallelism reaches over the groups of a mixed cluster, these are the ranks of one replica in each group, and `groups`
    says in which; `step` is then that of the slowest group.
    """

    step: StepSeconds
    step_seconds_intervals: tuple[Interval, ...]
    memory: tuple[MemoryBytes, ...]
    host_bytes: tuple[NonNegativeFloat, ...]
    nvme_bytes: tuple[NonNegativeFloat, ...] = ()
    groups: tuple[NonNegativeInt, ...] = ()
    tokens_per_s: PositiveFloat
    model_flops: PositiveFloat
    hardware_flops: PositiveFloat
    mfu: PositiveFloat
    hfu: PositiveFloat
    device_count: PositiveFloat
    basis: Literal["catalog", "profile"]

    @property
    def step_seconds(self) -> float:
        return self.step.total

    @property
    def peak_memory_bytes(self) -> float:
        return max(part.total for part in self.memory)

    @property
    def words(self) -> str:
        """`77.8 s (80% interval 65.6 s to 93.3 s), 53,943 tokens/s, MFU 41.0%`."""
        interval = self.step_seconds_intervals[0]
        return (
            f"{units.seconds(self.step_seconds)} ({units.share(interval.level).replace('.0%', '%')} interval "
            f"{units.seconds(interval.low)} to {units.seconds(interval.high)}), "
            f"{units.count(self.tokens_per_s)} tokens/s, MFU {units.share(self.mfu)}"
        )

    def __repr__(self) -> str:
        return f"<Estimate {self.words}, peak memory {units.size(self.peak_memory_bytes)}>"

    def rank_name(self, index: int) -> str:
        """Return which ranks an item of `memory` is of: `pipeline rank 2`, or `pipeline rank 2 of group 1`."""
        if not self.groups:
            return f"pipeline rank {index}"
        group = self.groups[index]
        return f"pipeline rank {index - self.groups.index(group)} of group {group + 1}"

    @property
    def device_hours_per_billion_tokens(self) -> float:
        return self.device_count * 1e9 / self.tokens_per_s / 3600
