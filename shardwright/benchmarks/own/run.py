"""Predicted and measured times of our own runs, and the errors over all of them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from shardwright.costmodel.op_times import left_out_errors
from shardwright.specs import Estimate, Fingerprint, Format, Measurement, PositiveFloat, Profile, Spec
from shardwright.validation.scores import ErrorSummary, Trial, rank_agreement, summarise_errors

MOST_DRIFT = 0.1


class Pass(Spec):
    """One process: the seconds of its timed steps, the medians of their parts, its peak of resident memory, and its
    resident memory before it built the model."""

    step_seconds: tuple[PositiveFloat, ...] = Field(min_length=1)
    part_seconds: dict[str, float]
    peak_memory_bytes: PositiveFloat
    baseline_memory_bytes: PositiveFloat

    @classmethod
    def of(cls, measurement: Measurement) -> "Pass":
        """The pass from the measurement of a run of one rank."""
        (peak_bytes,), (baseline_bytes,) = measurement.peak_memory_bytes, measurement.baseline_memory_bytes or (0.0,)
        return cls(
            step_seconds=tuple(step.seconds for step in measurement.steps[measurement.warmup_steps :]),
            part_seconds=measurement.part_seconds,
            peak_memory_bytes=peak_bytes,
            baseline_memory_bytes=baseline_bytes,
        )


class OwnRun(Spec):
    """One configuration: its estimate, and one or more passes. Errors are predicted / measured - 1.

    `counts`: whether the targets apply to it.
    """

    name: str
    counts: bool
    estimate: Estimate
    passes: tuple[Pass, ...] = Field(min_length=1)
    fingerprint: Fingerprint

    @property
    def timed_seconds(self) -> tuple[float, ...]:
        """Seconds of every timed step of all passes."""
        return tuple(seconds for each in self.passes for seconds in each.step_seconds)

    @property
    def step_seconds(self) -> float:
        return statistics.median(self.timed_seconds)

    @property
    def spread_seconds(self) -> tuple[float, float]:
        """The tenth and ninetieth percentile of the timed steps."""
        low, high = np.quantile(self.timed_seconds, [0.1, 0.9])
        return float(low), float(high)

    @property
    def drift(self) -> float:
        """Distance between the largest and smallest median of the passes, as a share of the smallest."""
        medians = [statistics.median(each.step_seconds) for each in self.passes]
        return max(medians) / min(medians) - 1

    @property
    def peak_memory_bytes(self) -> float:
        """Mean peak of the passes, in bytes."""
        return statistics.fmean(each.peak_memory_bytes for each in self.passes)

    @property
    def time_error(self) -> float:
        return self.estimate.step_seconds / self.step_seconds - 1

    @property
    def memory_error(self) -> float:
        return self.estimate.peak_memory_bytes / self.peak_memory_bytes - 1

    def part_seconds(self, name: str) -> float:
        """Seconds of "forward_backward", "optimizer" or "data": the mean of the passes' medians."""
        return statistics.fmean(each.part_seconds[name] for each in self.passes)


_INTERPOLATED: Mapping[str, tuple[str, ...]] = {
    "matmul": ("forward", "input_gradient", "weight_gradient"),
    "attention": ("forward", "backward"),
}


class Target(NamedTuple):
    """`value` must be at least, or at most, `limit`."""

    what: str
    value: float
    limit: float
    side: Literal["at least", "at most"]
    is_share: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.side == "at least" else self.value <= self.limit


class OwnSummary(Spec):
    """The errors over the runs to which the targets apply."""

    time: ErrorSummary
    memory: ErrorSummary
    kendall_tau: float

    @classmethod
    def of(cls, runs: Sequence[OwnRun]) -> "OwnSummary | None":
        """Summarise; None with fewer than two runs that count, because they have no order."""
        counted = [run for run in runs if run.counts]
        time = summarise_errors([run.time_error for run in counted])
        memory = summarise_errors([run.memory_error for run in counted])
        order = rank_agreement([Trial("all", run.name, run.step_seconds, run.estimate.step_seconds) for run in counted])
        if time is None or memory is None or order is None:
            return None
        return cls(time=time, memory=memory, kendall_tau=order.kendall_tau)

    @property
    def targets(self) -> tuple[Target, ...]:
        return (
            Target("step time, median error", self.time.median, 0.10, "at most"),
            Target("step time, worst error", self.time.worst, 0.25, "at most"),
            Target("order of the runs, Kendall tau", self.kendall_tau, 0.9, "at least", is_share=False),
            Target("peak memory, worst error", self.memory.worst, 0.10, "at most"),
        )


def interpolation_targets(profile: Profile | None, *, compute: Format = "fp32") -> tuple[Target, ...]:
    """Errors of matmuls and attention in `compute`, predicted by fits that have not seen a fifth of their points.

    Each is the median over the points of all passes of an operation. Operations with too few points have none.
    """
    found = []
    for operation, variants in _INTERPOLATED.items():
        series = [profile.find(operation, variant, compute) for variant in variants] if profile else []
        errors = [each for one in series if one and (each := left_out_errors(one)) is not None]
        if errors:
            median = float(np.median(np.abs(np.concatenate(errors))))
            found.append(Target(f"left-out points of {operation}, median error", median, 0.05, "at most"))
    return tuple(found)


def drifted(runs: Sequence[OwnRun]) -> list[OwnRun]:
    """Runs whose passes differ so much that another program must have disturbed one."""
    return [run for run in runs if run.drift > MOST_DRIFT]
