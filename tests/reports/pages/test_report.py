"""The report: it holds the numbers it was given, as text and as data, and needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from shardwright.base import units as readable
from shardwright.base.errors import SpecError
from shardwright.comparison.strategies import levels_of
from shardwright.costmodel import charged_step, pass_parts
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.reports.pages import Rival, Surrounding
from shardwright.reports.pages.report import Report, render_report, write_report
from shardwright.specs.plan import Plan
from shardwright.specs.results.measurement import Fingerprint, Measurement, StepRecord
from shardwright.specs.results.timeline import Timeline
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster, estimate_plan
from tests.validation.made_up_rows import row

MODEL, _ = model_of_row(row())
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
CLUSTER = cluster(4)
VOID_ELEMENTS = {"meta", "link", "br", "hr", "img", "input"}


def plan_of(name: str = "megatron") -> Plan:
    level = levels_of(name, MODEL, CLUSTER, TRAINING)[0]
    return next(plan for plan in level if name != "megatron" or plan.mesh.pp == 4)


def timeline_of(microbatches: int = 8) -> Timeline:
    costs = StageCosts(
        pp=4,
        forward=[1.0] * 4,
        backward=[2.0] * 4,
        first_forward_extra=[0.1] * 4,
        send=[0.05] * 3,
        reduce_tail=[0.5] * 4,
        optimizer=[0.2] * 4,
    )
    return simulate(make_schedule("1f1b", 4, 1, microbatches), costs, activation_bytes=1e9, static_bytes=1e10)


def measurement(ranks: int = 32) -> Measurement:
    return Measurement(
        ranks=ranks,
        warmup_steps=2,
        step_seconds=4.2,
        step_seconds_low=4.1,
        step_seconds_high=4.4,
        part_seconds={"forward_backward": 4.0, "optimizer": 0.2},
        tokens_per_s=62415.0,
        mfu=0.37,
        peak_memory_bytes=tuple(10e9 + 1e9 * rank for rank in range(ranks)),
        memory_kind="allocated",
        steps=tuple(
            StepRecord(step=step, loss=5.0 / (1 + step), gradient_norm=1.0, learning_rate=1e-4, seconds=4.2)
            for step in range(6)
        ),
        fingerprint=Fingerprint(
            device="fast device", host="node-7", python="3.11.9", torch="2.13.0", date="2026-01-02"
        ),
    )


def report_of(**changes: object) -> Report:
    plan = plan_of()
    given: dict[str, object] = {
        "model": MODEL,
        "cluster": CLUSTER,
        "training": TRAINING,
        "plan": plan,
        "estimate": estimate_plan(MODEL, CLUSTER, TRAINING, plan),
    }
    return Report(**(given | changes))  # type: ignore[arg-type] # the test's own keywords


class _Outline(HTMLParser):
    """Checks that every element is closed in order, and collects headings, and attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def data_of(page: str) -> dict[str, Any]:
    """What the charts of a page are drawn from."""
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


def test_a_report_shows_what_it_was_given() -> None:
    report = report_of(why=["Fits with room to spare."])
    page = render_report(report)
    estimate = report.estimate
    for text in (
        readable.seconds(estimate.step_seconds),
        readable.count(estimate.tokens_per_s),
        readable.share(estimate.mfu),
        readable.size(estimate.peak_memory_bytes),
        "pp4 x tp8 (32 ranks)",
        "Fits with room to spare.",
        "13.0 G parameters",
        "64 sequences of 4,096 tokens",
    ):
        assert text in page
    for name, seconds in estimate.step:
        if seconds:
            assert f"<td>{name.replace('_', ' ')}</td>" in page


def test_parts_that_are_not_given_are_left_out() -> None:
    assert _outline(render_report(report_of())).headings == [
        f"{MODEL.name} on {CLUSTER.name}",
        "Plan",
        "Where the step's time goes",
        "Memory",
        "What the estimate rests on",
    ]


def test_every_part_has_its_heading() -> None:
    mine = report_of()
    job = (MODEL, CLUSTER, TRAINING, mine.plan)
    page = render_report(
        report_of(
            why=["a"],
            timeline=timeline_of(),
            parts=pass_parts(*job),
            charges=charged_step(*job),
            rivals=[
                Rival("with less", mine.plan, mine.estimate, "compute +1 s"),
                Rival("with more", None, None, "does not fit"),
            ],
            surroundings=[
                Surrounding("half the memory", None, "does not fit"),
                Surrounding("twice the batch", mine.estimate, work=2.0),
            ],
            measurement=measurement(),
        )
    )
    assert _outline(page).headings[1:] == [
        "Plan",
        "Where the step's time goes",
        "Timeline of one step",
        "Memory",
        "Communication",
        "Rivals: what they cost, and why",
        "If the surroundings were different",
        "Prediction and measurement",
        "Why this plan",
        "What the estimate rests on",
    ]
    assert set(data_of(page)["charts"]) == {
        *("step", "timeline", "memory", "memory_over_time", "traffic", "rivals", "surroundings", "step_seconds", "loss")
    }
    assert "With half the memory: does not fit." in page


def test_every_chart_has_data_and_every_data_a_chart() -> None:
    page = render_report(report_of(timeline=timeline_of(), measurement=measurement()))
    assert sorted(re.findall(r'data-chart="(\w+)"', page)) == sorted(data_of(page)["charts"])


def test_the_data_are_those_of_the_estimate() -> None:
    report = report_of(timeline=timeline_of())
    charts, estimate, timeline = data_of(render_report(report))["charts"], report.estimate, timeline_of()
    step = {part["colour"]: part["values"][0] for part in charts["step"]["parts"]}
    assert step == {cause: seconds for cause, seconds in estimate.step if seconds}
    for rank, memory in enumerate(estimate.memory):
        found = {part["colour"]: part["values"][rank] for part in charts["memory"]["parts"]}
        assert {part: size for part, size in found.items() if size} == {part: size for part, size in memory if size}
    assert charts["timeline"]["tick"] * charts["timeline"]["ticks"] == pytest.approx(timeline.step_seconds, rel=1e-12)


def test_the_page_loads_nothing() -> None:
    page = render_report(report_of(timeline=timeline_of(), measurement=measurement()))
    assert all(target.startswith(("#", "data:")) for target in _outline(page).loads)
    assert "@import" not in page.split("<script", 1)[0]
    assert not re.search(r"url\((?!#)", page.split("<script", 1)[0])


def test_nothing_on_the_page_shares_an_id() -> None:
    ids = _outline(render_report(report_of(timeline=timeline_of(120), measurement=measurement()))).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "</script>"]
)
def test_names_and_sentences_are_text(text: str) -> None:
    named = MODEL.model_copy(update={"name": text})
    somewhere = CLUSTER.model_copy(update={"name": text})
    mine = report_of()
    page = render_report(
        report_of(model=named, cluster=somewhere, why=[text], rivals=[Rival(text, mine.plan, mine.estimate, text)])
    )
    outline = _outline(page)  # a script that ends early leaves elements that do not match
    assert page.count("<script") == 3
    written, data = page.split("<script", 1)
    assert "<img" not in written
    assert "<img" not in data.split("</script>", 1)[0]
    assert ">49<" not in written
    assert written.count(str(escape(text))) >= 6  # title, heading, job, why, rival and its reason
    assert outline.headings[0] == f"{text} on {text}"


def test_measurement_stands_beside_prediction() -> None:
    report = report_of(measurement=measurement())
    page = render_report(report)
    difference = report.estimate.step_seconds / 4.2 - 1
    assert "4.20 s (4.10 s to 4.40 s)" in page
    assert readable.signed_share(difference) in page
    assert "62,415" in page
    # of the eight ranks of each pipeline rank, the one that held most
    for fullest in (17e9, 25e9, 33e9, 41e9):
        assert f"{readable.size(fullest)} allocated" in page
    assert "fast device" in page
    assert "torch 2.13.0" in page


def test_a_measurement_of_other_ranks_is_refused() -> None:
    with pytest.raises(SpecError, match="measurement is of 2 ranks and the plan has 32"):
        render_report(report_of(measurement=measurement(ranks=2)))


def test_a_measurement_without_steps_has_no_curves() -> None:
    page = render_report(report_of(measurement=measurement().model_copy(update={"steps": ()})))
    assert "Prediction and measurement" in page
    assert "loss" not in data_of(page)["charts"]


def test_the_same_report_is_the_same_page() -> None:
    report = report_of(timeline=timeline_of(), measurement=measurement())
    assert render_report(report) == render_report(report)


def test_writing_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, report_of())
    assert path.read_text().rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_report_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(SpecError):
        write_report(path, report_of(measurement=measurement(ranks=2)))
    assert path.read_text() == "old"


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", report_of())
