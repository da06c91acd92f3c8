"""The page of a run in phases: its figures are those of the phases, and it shows a measurement beside them."""

import pytest

from shardwright.base import units as readable
from shardwright.costmodel.phases import Phase, PhasesFile, Switching
from shardwright.jobs import phases_of
from shardwright.reports.charts import Bars, Lines
from shardwright.reports.pages import PhasesPage, render_phases_page
from shardwright.reports.pages.phases import charts_of
from shardwright.reports.plan import PhaseLine
from shardwright.specs.results.measurement import Measurement, StepRecord
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.reports.pages.test_report import measurement

STEPS = (3, 4)


def page_of(measured: Measurement | None = None) -> PhasesPage:
    """Three steps under FSDP and four under a pipeline, with a checkpoint between."""
    plans = plan((layers(2, zero=3),), dp_shard=2), plan((layers(1),), (layers(1),), pp=2)
    files = [plan_file(model_config("llama", layers=2), each) for each in plans]
    file = PhasesFile(
        phases=tuple(Phase(steps=steps, plan_file=each) for steps, each in zip(STEPS, files, strict=True)),
        switching=Switching(build_seconds=20, write_bytes_per_s=1e9, read_bytes_per_s=1e9),
    )
    lines = [PhaseLine(*phase) for phase in phases_of(file)]
    return PhasesPage(file=file, phases=lines, why=["Because <so>."], measurement=measured)


def measured() -> Measurement:
    """Seven steps: five to four seconds in the first phase, two in the second."""
    seconds = (9.0, 5.0, 4.0, 2.0, 2.0, 2.0, 2.0)
    steps = tuple(
        StepRecord(step=number, loss=3.0 - number / 4, seconds=each, gradient_norm=1.0, learning_rate=1e-3)
        for number, each in enumerate(seconds, 1)
    )
    return measurement(2).model_copy(update={"steps": steps, "warmup_steps": 1})


def test_the_tiles_sum_up_the_phases() -> None:
    page = page_of()
    first, second = page.phases
    whole = 3 * first.estimate.step_seconds + second.switch.seconds + 4 * second.estimate.step_seconds
    assert second.switch.seconds > 20
    text = render_phases_page(page)
    tiles = {"Whole run": readable.days(whole), "Switches": readable.seconds(second.switch.seconds)}
    for words in (
        *(f"{what}</span><b>{value}</b>" for what, value in tiles.items()),
        "in 2 phases",
        "Because &lt;so&gt;.",
    ):
        assert words in text
    tokens = 3 * first.training.tokens_per_step + 4 * second.training.tokens_per_step
    assert f"{readable.amount(tokens)} tokens" in text
    low, high = (
        second.switch.seconds
        + sum(
            steps * end
            for steps, phase in zip(STEPS, page.phases, strict=True)
            for each in phase.estimate.step_seconds_intervals
            if each.level == pytest.approx(0.8)
            for end in ((each.low, each.high)[side],)
        )
        for side in (0, 1)
    )
    assert f"80%: {readable.days(low)} to {readable.days(high)}" in text


def test_bars_are_the_seconds_and_bytes_of_each_phase() -> None:
    page = page_of()
    charts = charts_of(page)
    run, memory = charts["run"], charts["memory"]
    assert isinstance(run, Bars)
    assert {part.name: part.values for part in run.parts} == {
        "switch": (0.0, page.phases[1].switch.seconds),
        "steps": tuple(phase.steps * phase.estimate.step_seconds for phase in page.phases),
    }
    assert isinstance(memory, Bars)
    assert run.rows == memory.rows == ("phase 1", "phase 2")
    for index, phase in enumerate(page.phases):
        fullest = max(one.total for one in phase.estimate.memory)
        assert sum(part.values[index] or 0 for part in memory.parts) == pytest.approx(fullest)


def test_a_measurement_is_shown_phase_by_phase() -> None:
    page = page_of(measured())
    text, curves = render_phases_page(page), charts_of(page)["step_seconds"]
    assert "Prediction and measurement" not in render_phases_page(page_of())
    assert "Prediction and measurement" in text
    for cell in ("1 to 3", "4.50 s", "4 to 7", "2.00 s", "1.2500"):
        assert f">{cell}<" in text
    assert isinstance(curves, Lines)
    seen, predicted = curves.curves
    assert len(seen.points) == 7
    first, second = (phase.estimate.step_seconds for phase in page.phases)
    assert [tuple(point[:2]) for point in predicted.points] == [(1, first), (3, first), (4, second), (7, second)]
