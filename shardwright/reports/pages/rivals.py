"""Other plans beside the chosen one: what each costs in time, memory and complexity, and why it loses."""

from collections.abc import Sequence
from typing import NamedTuple

from shardwright.base import units as readable
from shardwright.reports.charts import Axis, Point, PointGroup, Points
from shardwright.reports.plan import choice_words
from shardwright.specs import Estimate, Plan

RIVAL_COLUMNS = ("plan", "choices", "step", "change", "peak memory", "complexity", "largest difference")


class Rival(NamedTuple):
    """A plan with one thing changed, on another mesh, or better in some way; without a plan, `why` says what prevents it."""

    name: str
    plan: Plan | None
    estimate: Estimate | None
    why: str


def complexity(plan: Plan) -> int:
    """How much there is to set up: axes above degree 1 but those of data and of experts, and kinds of state off the device, each 1."""
    mesh, offload = plan.mesh, plan.offload
    axes = sum(degree > 1 for degree in (mesh.pp, mesh.cp, mesh.tp))
    return axes + (offload.optimizer_fraction > 0) + len(offload.others) + bool(plan.activation_place)


def rival_rows(rivals: Sequence[Rival], mine: Estimate) -> list[tuple[tuple[str, ...], bool]]:
    """One row for each rival in the order of `RIVAL_COLUMNS`, fastest first, and whether it runs."""
    able = sorted((one for one in rivals if one.estimate is not None), key=lambda one: _seconds(one))
    return [(_cells(one, mine), True) for one in able] + [
        ((one.name, *["-"] * 5, one.why), False) for one in rivals if one.estimate is None
    ]


def rival_points(rivals: Sequence[Rival], plan: Plan, mine: Estimate) -> Points:
    """Step and peak memory of the plan and its rivals, each marked with its complexity; of equal plans the first."""
    shown = {
        one.plan: _point(one.name, one.plan, one.estimate)
        for one in reversed(rivals)
        if one.plan is not None and one.estimate is not None and one.plan != plan
    }
    return Points(
        x=Axis(name="step", unit="s"),
        y=Axis(name="peak memory of a device", unit="B"),
        groups=(
            PointGroup("rivals", "other", tuple(shown.values())),
            PointGroup("this plan", "chosen", (_point("this plan", plan, mine),)),
        ),
    )


def _point(name: str, plan: Plan, estimate: Estimate) -> Point:
    count = complexity(plan)
    words = f"complexity {count}: {choice_words(plan)}"
    return Point(x=estimate.step_seconds, y=estimate.peak_memory_bytes, name=name, mark=str(count), words=words)


def _cells(one: Rival, mine: Estimate) -> tuple[str, ...]:
    assert one.plan is not None
    assert one.estimate is not None
    change = one.estimate.step_seconds / mine.step_seconds - 1
    seconds, memory = readable.seconds(one.estimate.step_seconds), readable.size(one.estimate.peak_memory_bytes)
    return (
        one.name,
        choice_words(one.plan),
        seconds,
        readable.signed_share(change),
        memory,
        str(complexity(one.plan)),
        one.why,
    )


def _seconds(one: Rival) -> float:
    return one.estimate.step_seconds if one.estimate else float("inf")
