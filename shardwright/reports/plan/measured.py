"""A prediction beside the measurement of the same plan, line by line."""

from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.base import units as readable
from shardwright.specs import Estimate, Measurement, Plan


class MeasuredLine(NamedTuple):
    """One quantity. `difference` is predicted / measured - 1 as text; empty if nothing was measured."""

    what: str
    predicted: str
    measured: str
    difference: str


def measured_lines(plan: Plan, estimate: Estimate, measurement: Measurement) -> list[MeasuredLine]:
    """Step time, throughput, MFU, and memory of each pipeline rank (the maximum over its ranks).

    Raises:
        SpecError: the measurement is of another number of ranks than the plan, or the plan has replicas in several groups.
    """
    if plan.replicas:
        raise SpecError(
            f"the plan has replicas in {len(plan.replicas)} groups, and a measurement is of nodes of one kind; leave it out"
        )
    if measurement.ranks != plan.mesh.ranks or len(measurement.peak_memory_bytes) != plan.mesh.ranks:
        raise SpecError(
            f"the measurement is of {measurement.ranks} ranks and the plan has {plan.mesh.ranks}; give the measurement of a run of this plan"
        )
    lines = [
        MeasuredLine(
            "step time",
            readable.seconds(estimate.step_seconds),
            f"{readable.seconds(measurement.step_seconds)} ({readable.seconds(measurement.step_seconds_low)} to {readable.seconds(measurement.step_seconds_high)})",
            _difference(estimate.step_seconds, measurement.step_seconds),
        ),
        MeasuredLine(
            "tokens/s",
            readable.count(estimate.tokens_per_s),
            readable.count(measurement.tokens_per_s),
            _difference(estimate.tokens_per_s, measurement.tokens_per_s),
        ),
    ]
    if measurement.mfu is not None:
        lines.append(
            MeasuredLine(
                "MFU",
                readable.share(estimate.mfu),
                readable.share(measurement.mfu),
                _difference(estimate.mfu, measurement.mfu),
            )
        )
    of_stage = plan.mesh.numbered().reshape(plan.mesh.pp, -1)
    for pipeline_rank, predicted in enumerate(estimate.memory):
        measured = max(measurement.peak_memory_bytes[rank] for rank in of_stage[pipeline_rank])
        lines.append(
            MeasuredLine(
                f"peak memory, pipeline rank {pipeline_rank}",
                readable.size(predicted.total),
                f"{readable.size(measured)} {measurement.memory_kind}",
                _difference(predicted.total, measured),
            )
        )
    return lines + _offload_lines(measurement)


def _offload_lines(measurement: Measurement) -> list[MeasuredLine]:
    """Host memory of the offload engine, beside the plan's figure: the rank that came nearest to it."""
    offload = measurement.offload
    if offload is None:
        return []
    stated, held = max(
        zip(offload.host_plan_bytes, offload.host_peak_bytes, strict=True),
        key=lambda pair: pair[1] / pair[0] if pair[0] else 0.0,
    )
    return [
        MeasuredLine(
            "offload, host memory", readable.size(stated), f"{readable.size(held)} held", _difference(stated, held)
        )
    ]


def _difference(predicted: float, measured: float) -> str:
    return readable.signed_share(predicted / measured - 1) if measured > 0 else ""
