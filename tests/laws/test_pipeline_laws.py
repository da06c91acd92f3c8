"""Laws of schedules and of the step time; one class a law, the law as its docstring."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.costmodel.pipeline.action import Action, ActionKind, Overlap, Work, parse_work
from shardwright.costmodel.pipeline.in_flight import peak_in_flight
from shardwright.costmodel.pipeline.schedule import Schedule, make_schedule, overlap_counts
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.costmodel.pipeline.step import step_parts, step_seconds
from shardwright.costmodel.pipeline.validation import validate_schedule
from shardwright.specs.schedules import ScheduleName, by_rank, stage_ranks

Shape = tuple[ScheduleName, int, int, int]
SECONDS = st.floats(0, 100) | st.sampled_from([0.0, 1.0, 1e-6])
UNTIMED = settings(deadline=None)  # how long an example takes depends on its size and on what else the machine does
PARTS = ("weight_gradient", "overlap_saving")
COSTS = ("forward", "backward", "first_forward_extra", "send", "reduce_tail", "optimizer")


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Schedule, pp, stages per rank, microbatches, as far as they go together."""
    name: ScheduleName = draw(st.sampled_from(get_args(ScheduleName)))
    if name == "interleaved-1f1b":
        pp = draw(st.integers(2, 5))
        return name, pp, draw(st.integers(2, 4)), pp * draw(st.integers(1, 8))
    if name == "breadth-first":
        return name, draw(st.integers(2, 5)), draw(st.integers(2, 4)), draw(st.integers(1, 20))
    if name in ("zb-v", "v-half", "v-min", "dualpipe-v"):
        pp = draw(st.integers(2, 5))
        return name, pp, 2, draw(st.integers(2 * pp if name == "dualpipe-v" else 1, 30))
    if name == "skippipe-25":
        pp = 4 * draw(st.integers(1, 2))
        return name, pp, 1, draw(st.integers(pp - 2, 40))
    return name, draw(st.integers(1, 6)), 1, draw(st.integers(1, 40))


def lists(length: int) -> st.SearchStrategy[list[float]]:
    return st.lists(SECONDS, min_size=length, max_size=length)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Shape, StageCosts]:
    shape = draw(shapes())
    pp, stages = shape[1], shape[1] * shape[2]
    lengths = {name: {"send": stages - 1, "optimizer": pp}.get(name, stages) for name in COSTS}
    given = {name: np.array(draw(lists(length))) for name, length in lengths.items()}
    shares = st.lists(st.floats(0, 1), min_size=stages, max_size=stages)
    weight_gradient = given["backward"] * np.array(draw(shares))
    overlap_saving = np.minimum(given["forward"], given["backward"][::-1]) * np.array(draw(shares))
    return shape, StageCosts(pp=pp, weight_gradient=weight_gradient, overlap_saving=overlap_saving, **given)


def seconds(shape: Shape, costs: StageCosts) -> float:
    return float(step_seconds(shape[0], costs, shape[3]))


class TestStepSecondsAndSimulationAgree:
    """step_seconds == the simulated step, for any costs; a stronger law than the 1% that the design asks for."""

    @UNTIMED
    @given(cases())
    def test_law(self, case: tuple[Shape, StageCosts]) -> None:
        shape, costs = case
        assert seconds(shape, costs) == pytest.approx(simulate(make_schedule(*shape), costs).step_seconds, rel=1e-9)


class TestNoCostMakesAStepFaster:
    """Raising any one cost never shortens the step."""

    @UNTIMED
    @given(cases(), st.sampled_from(COSTS), st.data())
    def test_law(self, case: tuple[Shape, StageCosts], name: str, data: st.DataObject) -> None:
        shape, costs = case
        more = getattr(costs, name) + np.array(data.draw(lists(getattr(costs, name).size)))
        assert seconds(shape, replace(costs, **{name: more})) >= seconds(shape, costs) * (1 - 1e-12)


class TestTimeScales:
    """Costs twice as long make a step twice as long."""

    @UNTIMED
    @given(cases())
    def test_law(self, case: tuple[Shape, StageCosts]) -> None:
        shape, costs = case
        doubled = StageCosts(pp=costs.pp, **{name: 2 * getattr(costs, name) for name in COSTS + PARTS})
        assert seconds(shape, doubled) == pytest.approx(2 * seconds(shape, costs), rel=1e-12)


class TestAStepLiesBetweenItsBounds:
    """The busiest rank's work <= the step <= everything one after the other."""

    @UNTIMED
    @given(cases())
    def test_law(self, case: tuple[Shape, StageCosts]) -> None:
        shape, costs = case
        microbatches, once = shape[3], costs.first_forward_extra + costs.reduce_tail
        saved = overlap_counts(*shape) * costs.overlap_saving
        per_stage = microbatches * (costs.forward + costs.backward) + once - saved
        serial = per_stage.sum() + 2 * microbatches * costs.send.sum() + costs.optimizer.max()
        step = seconds(shape, costs)
        assert by_rank(shape[0], costs.pp, per_stage).sum(axis=0).max() <= step * (1 + 1e-12)
        assert step <= serial * (1 + 1e-12)


class TestPartsAddUp:
    """No part is negative and together they are the step."""

    @UNTIMED
    @given(cases())
    def test_law(self, case: tuple[Shape, StageCosts]) -> None:
        shape, costs = case
        parts = step_parts(shape[0], costs, shape[3])
        step = seconds(shape, costs)
        assert float(parts.total_seconds) == pytest.approx(step, rel=1e-12)
        assert min(float(parts.bubble_seconds), float(parts.transfer_seconds)) >= 0


class Test1F1BIsNoSlowerThanGPipeWithoutSends:
    """On equal stages without sends, 1F1B takes as long as GPipe and never holds more microbatches."""

    @UNTIMED
    @given(st.integers(1, 8), st.integers(1, 40), SECONDS, SECONDS)
    def test_law(self, pp: int, microbatches: int, forward: float, backward: float) -> None:
        costs = StageCosts(pp=pp, forward=np.full(pp, forward), backward=np.full(pp, backward))
        both = [seconds((name, pp, 1, microbatches), costs) for name in ("1f1b", "gpipe")]
        assert both[0] == pytest.approx(both[1], rel=1e-9)
        held = [peak_in_flight(name, pp, 1, microbatches) for name in ("1f1b", "gpipe")]
        assert (held[0] <= held[1]).all()


class TestParseReadsWhatWasPrinted:
    """parse(print(x)) == x, of actions and of any grid of actions, valid or not."""

    actions = st.builds(Action, st.integers(0, 200), st.sampled_from(ActionKind), st.integers(0, 5000))

    pairs = st.builds(
        lambda forward, backward: Overlap(
            forward._replace(kind=ActionKind.FORWARD), backward._replace(kind=ActionKind.BACKWARD)
        ),
        actions,
        actions,
    )

    @UNTIMED
    @given(actions | pairs)
    def test_of_work(self, work: Work) -> None:
        assert parse_work(str(work)) == work

    @UNTIMED
    @given(st.lists(st.lists(actions | pairs, min_size=1), max_size=5))
    def test_of_schedules(self, orders: list[list[Work]]) -> None:
        schedule = Schedule(tuple(map(tuple, orders)))
        assert Schedule.parse(str(schedule)) == schedule


class TestGeneratedSchedulesCanRun:
    """Every schedule that is generated passes validation, with its stages on the ranks that its shape says."""

    @UNTIMED
    @given(shapes())
    def test_law(self, shape: Shape) -> None:
        schedule = make_schedule(*shape)
        validate_schedule(schedule)
        _, pp, stages_per_rank, microbatches = shape
        assert (schedule.pp, schedule.stages, schedule.microbatches) == (pp, pp * stages_per_rank, microbatches)
        assert schedule.rank_of_stage == dict(enumerate(stage_ranks(shape[0], pp, pp * stages_per_rank)))


class TestASwapThatBreaksTheOrderIsFound:
    """A generated schedule with a backward moved before its own forward is refused."""

    @UNTIMED
    @given(shapes(), st.data())
    def test_law(self, shape: Shape, data: st.DataObject) -> None:
        schedule = make_schedule(*shape)
        rank = data.draw(st.integers(0, schedule.pp - 1))
        order = list(schedule.orders[rank])
        gradients = (ActionKind.BACKWARD, ActionKind.INPUT_GRADIENT)
        alone = [work for work in order if isinstance(work, Action)]
        backward = data.draw(st.sampled_from([action for action in alone if action.kind in gradients]))
        order.remove(backward)
        forward = backward._replace(kind=ActionKind.FORWARD)
        order.insert(next(step for step, work in enumerate(order) if forward in work.passes), backward)
        broken = Schedule((*schedule.orders[:rank], tuple(order), *schedule.orders[rank + 1 :]))
        with pytest.raises(ValueError, match=f"{backward} comes before"):
            validate_schedule(broken)
