"""The answer about documents of several lengths, in words and as plain data."""

from typing import Any

from shardwright.base import units as readable
from shardwright.planner.questions import Bucketed, Case, Packings
from shardwright.reports.questions import Answer, Curve
from shardwright.specs import Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .plain import case_json

_COLUMNS = ("sequences", "step", "tokens/s", "padding", "memory")


def packing_answer(found: Packings, model: ModelSpec, training: TrainingSpec) -> Answer:
    """A row for each way, and one for each bucket."""
    assert training.lengths is not None, "the question needs lengths"
    rows, rates = [], {}
    for name, case in (("packed", found.packed), ("padded", found.padded)):
        if case is not None:
            rows.append(_row(name, case))
            rates[name] = case.estimate.tokens_per_s
    best = next((place for place, row in enumerate(rows) if row[0] == found.fastest), None)
    if found.bucketed is not None:
        rows += [_row(f"up to {bucket.longest:,}", bucket.case) for bucket in found.bucketed.buckets]
        rates["bucketed"] = found.bucketed.tokens_per_s
    return Answer(
        title=f"documents of {training.lengths.name} ({training.lengths.mean_tokens:,.0f} tokens on average): {model.name}",
        first="sequences of",
        columns=_COLUMNS,
        rows=tuple(rows),
        best=best,
        lines=tuple(_lines(found, rates)),
        curve=_curve(found, model, training) if found.bucketed else None,
    )


def _curve(found: Packings, model: ModelSpec, training: TrainingSpec) -> Curve:
    """Tokens/s of each bucket, and of packed documents."""
    assert found.bucketed, "drawn where buckets fit"
    assert training.lengths, "the question needs lengths"
    buckets = found.bucketed.buckets
    return Curve(
        title=f"Tokens/s of documents of {training.lengths.name}, padding not counted: {model.name}",
        x_label="longest document of a bucket, tokens",
        y_label="predicted tokens/s",
        points=tuple((float(bucket.longest), bucket.case.estimate.tokens_per_s) for bucket in buckets),
        labels=tuple(str(bucket.case.plan.mesh) for bucket in buckets),
        joined=tuple(range(len(buckets))),
        joined_label="buckets",
        limit=found.packed.estimate.tokens_per_s if found.packed else None,
        limit_label="packed",
        linear=True,
    )


def packing_json(found: Packings) -> dict[str, Any]:
    """The three ways in SI units."""
    return {
        "answer": found.fastest,
        "packed": case_json(found.packed) if found.packed else None,
        "padded": case_json(found.padded) if found.padded else None,
        "bucketed": _bucketed_json(found.bucketed) if found.bucketed else None,
        "refused": found.refused,
        "searches": found.searches,
    }


def _bucketed_json(found: Bucketed) -> dict[str, Any]:
    buckets = [{"longest": each.longest, "share": each.share, **case_json(each.case)} for each in found.buckets]
    return {"tokens_per_s": found.tokens_per_s, "buckets": buckets}


def _row(name: str, case: Case) -> tuple[str, Plan, tuple[str, ...]]:
    estimate, training = case.estimate, case.training
    figures = (
        readable.count(training.global_batch),
        readable.seconds(estimate.step_seconds),
        readable.count(estimate.tokens_per_s),
        readable.share(1 - training.used_share),
        readable.size(estimate.peak_memory_bytes),
    )
    return name, case.plan, figures


def _lines(found: Packings, rates: dict[str, float]) -> list[str]:
    lines = []
    if found.bucketed is not None:
        shares = ", ".join(f"{bucket.share:.0%} up to {bucket.longest:,}" for bucket in found.bucketed.buckets)
        lines.append(
            f"Bucketed, each step has documents of one bucket, as often as the bucket has tokens ({shares}), under one layout of the "
            f"parameters: {readable.count(rates['bucketed'])} tokens/s."
        )
    others = [
        f"{name} is {rates[found.fastest] / rate - 1:.1%} slower for a token"
        for name, rate in rates.items()
        if name != found.fastest
    ]
    lines.append(f"Fastest is {found.fastest}" + (f"; {', '.join(others)}." if others else "."))
    lines += [f"{name}: {reason}." for name, reason in found.refused.items()]
    if found.fastest == "packed":
        lines.append(
            "It needs attention that stays within a document (FlashAttention's variable lengths, FlexAttention)."
        )
    return lines
