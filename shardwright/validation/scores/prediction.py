"""The prediction that stands for a run: of the plans that its row can mean, the one that people would have run."""

from collections.abc import Sequence
from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel import EstimatePlan, Prediction, fits_probability, predict
from shardwright.specs import Estimate, Interval
from shardwright.validation.layout import Reading
from shardwright.validation.rows import MeasuredRun

_POSSIBLE = 0.1  # least probability that a reading fits the memory, to count as what may have run


class OtherReading(NamedTuple):
    """A reading that may have run as well: the open choice that it takes otherwise, and its step seconds."""

    choice: str
    step_seconds: float


class ReadRun(NamedTuple):
    """The prediction that stands for a run, and what else the row can mean."""

    prediction: Prediction
    others: tuple[OtherReading, ...] = ()


class _Read(NamedTuple):
    reading: Reading
    prediction: Prediction

    @property
    def bytes(self) -> float:
        return self.prediction.estimate.peak_memory_bytes


def predict_run(run: MeasuredRun, estimate: EstimatePlan) -> ReadRun:
    """Estimate the likeliest reading of a run that fits the device's memory, the least recompute first.

    The run ran, so all of the memory counts, without the planner's reserve. If nothing fits, the reading that needs the
    least memory stands for the run. The intervals hold those of every other reading that differs in one open choice
    and may have fitted as well.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster.
    """
    memory = run.cluster.node.device.memory_bytes
    reads = _reads(run, estimate, memory)
    fitting = [read for read in reads if read.bytes <= memory]
    best = fitting[0] if fitting else min(reads, key=lambda read: read.bytes)
    others = _others(run, best, estimate, memory)
    how = "" if fitting else ", the least memory, as nothing is predicted to fit"
    prediction = best.prediction._replace(
        estimate=_widened(best.prediction.estimate, [other.prediction.estimate for other in others.values()]),
        assumptions=tuple(f"{name}: {value}{how}" for name, value in best.reading.chosen),
    )
    return ReadRun(prediction, tuple(_other(name, read) for name, read in others.items()))


def _reads(run: MeasuredRun, estimate: EstimatePlan, memory: float) -> list[_Read]:
    """The readings in their order, up to the first that fits."""
    found: list[_Read] = []
    refusals: list[SpecError] = []
    for reading in run.readings:
        try:
            found.append(_Read(reading, predict(run.model, run.cluster, run.training, reading.plan, estimate)))
        except SpecError as refusal:
            refusals.append(refusal)
            continue
        if found[-1].bytes <= memory:
            break
    if not found:
        raise refusals[0]
    return found


def _others(run: MeasuredRun, best: _Read, estimate: EstimatePlan, memory: float) -> dict[str, _Read]:
    """By open choice, its nearest other value that may have fitted, all else as in `best`."""
    found: dict[str, _Read] = {}
    place = run.readings.index(best.reading)
    for reading in sorted(run.readings, key=lambda one: abs(run.readings.index(one) - place)):
        changed = set(reading.chosen) - set(best.reading.chosen)
        name = next(iter(changed))[0] if len(changed) == 1 else None
        if name is None or name in found:
            continue
        try:
            read = _Read(reading, predict(run.model, run.cluster, run.training, reading.plan, estimate))
        except SpecError:
            continue
        if fits_probability(read.bytes, memory) >= _POSSIBLE:
            found[name] = read
    return found


def _other(name: str, read: _Read) -> OtherReading:
    return OtherReading(f"{name}: {dict(read.reading.chosen)[name]}", read.prediction.estimate.step_seconds)


def _widened(estimate: Estimate, others: Sequence[Estimate]) -> Estimate:
    """`estimate` with intervals that hold those of all `others`."""
    alike = [estimate, *others]
    held = tuple(
        Interval(
            level=interval.level,
            low=min(one.step_seconds_intervals[index].low for one in alike),
            high=max(one.step_seconds_intervals[index].high for one in alike),
        )
        for index, interval in enumerate(estimate.step_seconds_intervals)
    )
    return estimate.model_copy(update={"step_seconds_intervals": held})
