"""The measurement of a run. The executor writes it; reports compare it with the estimate."""

from pathlib import Path
from typing import Literal

from shardwright.base import read_json
from shardwright.specs.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec


class StepRecord(Spec):
    """One optimizer step. `gradient_norm` is before clipping; `loss` is the mean over the step's tokens.

    `loss_scale`: by which fp16 multiplied the loss; None in other formats. `skipped`: the gradients were not finite at this scale and not
    applied; their norm is None then.
    """

    step: NonNegativeInt
    loss: float
    gradient_norm: float | None
    learning_rate: NonNegativeFloat
    seconds: PositiveFloat
    loss_scale: PositiveFloat | None = None
    skipped: bool = False


class Fingerprint(Spec):
    """The machine and software that a number was measured on."""

    device: str
    host: str
    python: str
    torch: str
    date: str


class HeldBytes(Spec):
    """The most bytes of one kind of tensor that the offload engine of a rank held at once in one place."""

    kind: Literal["parameters", "gradients", "optimizer_state", "activations", "buffers"]
    place: Literal["device", "host", "nvme"]
    peak_bytes: NonNegativeInt


class OffloadMeasurement(Spec):
    """What the offload engine held. `held`: of each kind and place, on the rank that held most of it.

    `host_peak_bytes`: the peak of all kinds together on the host, for each rank in order; `host_plan_bytes`: what the plan states, which no
    rank passes. `device` counts what the engine itself put there, not what FSDP2 or autograd hold.
    """

    held: tuple[HeldBytes, ...]
    host_peak_bytes: tuple[NonNegativeInt, ...]
    host_plan_bytes: tuple[NonNegativeFloat, ...]


class CheckpointMeasurement(Spec):
    """Checkpoints of one rank, medians: seconds for which a save held up the steps, and seconds until it was on the disk.

    With mode "sync" these are the same. `write_seconds` is None while the first asynchronous write goes on.
    """

    mode: Literal["sync", "async"]
    saves: PositiveInt
    stall_seconds: PositiveFloat
    write_seconds: PositiveFloat | None


class Measurement(Spec):
    """A training run. Seconds are medians over the steps after `warmup_steps`; memory is each rank's peak, in order.

    `step_seconds_low` and `_high` are the tenth and ninetieth percentile. `steps` holds every step of the run. After a
    resume, the seconds and the memory are of the steps since.
    `part_seconds` are those of the slowest rank: "forward_backward" (with pipeline and communication), "optimizer", "data".
    `offload` is there if the plan has shares off the device, `checkpoints` if some were saved before the last step.
    `memory_kind`: resident set of the process on CPU, allocated and reserved by torch on CUDA.
    """

    kind: Literal["shardwright-measurement"] = "shardwright-measurement"
    schema_version: Literal[1] = 1
    ranks: PositiveInt
    warmup_steps: NonNegativeInt
    step_seconds: PositiveFloat
    step_seconds_low: PositiveFloat
    step_seconds_high: PositiveFloat
    part_seconds: dict[str, NonNegativeFloat]
    tokens_per_s: PositiveFloat
    mfu: PositiveFloat | None
    peak_memory_bytes: tuple[NonNegativeFloat, ...]
    memory_kind: Literal["resident", "allocated"]
    peak_reserved_bytes: tuple[NonNegativeFloat, ...] | None = None
    baseline_memory_bytes: tuple[NonNegativeFloat, ...] | None = None
    offload: OffloadMeasurement | None = None
    checkpoints: CheckpointMeasurement | None = None
    steps: tuple[StepRecord, ...]
    fingerprint: Fingerprint


def read_measurement(path: Path) -> Measurement:
    """Read a measurement file.

    Raises:
        SpecError: it is missing or not valid.
    """
    return Measurement.parse(read_json(path), source=str(path))
