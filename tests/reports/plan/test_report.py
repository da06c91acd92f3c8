"""The report: it holds the numbers it was given, runs nothing, and needs nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape
from shardwright.reports.plan.report import Report, render_report, write_report

from shardwright.base import units as readable
from shardwright.base.errors import SpecError
from shardwright.compare.side_by_side import compare
from shardwright.compare.strategies import levels_of
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.reports.plan.measured import measured_lines
from shardwright.specs.mesh import Mesh, MeshOrder
from shardwright.specs.plan import LayerRun, Plan, Stage
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


def _plan(name: str = "megatron") -> Plan:
    level = levels_of(name, MODEL, CLUSTER, TRAINING)[0]
    return next(plan for plan in level if name != "megatron" or plan.mesh.pp == 4)


def _timeline(microbatches: int = 8) -> Timeline:
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


def _measurement(ranks: int = 32) -> Measurement:
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


def _report(**changes: object) -> Report:
    plan = _plan()
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


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


def test_a_report_shows_what_it_was_given() -> None:
    report = _report(why=["Fits with room to spare."])
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
        "64 sequences of 4096 tokens",
    ):
        assert text in page
    for name, seconds in estimate.step:
        if seconds:
            assert f"<td>{name.replace('_', ' ')}</td>" in page


def test_parts_that_are_not_given_are_left_out() -> None:
    assert _outline(render_report(_report())).headings == [
        f"{MODEL.name} on {CLUSTER.name}",
        "Plan",
        "Where the step's time goes",
        "Memory",
    ]


def test_every_part_has_its_heading() -> None:
    comparison = compare(MODEL, CLUSTER, TRAINING, strategies=("ddp", "zero3"), estimate=estimate_plan)
    page = render_report(_report(why=["a"], timeline=_timeline(), comparison=comparison, measurement=_measurement()))
    assert _outline(page).headings[1:] == [
        "Plan",
        "Why this plan",
        "Prediction and measurement",
        "Where the step's time goes",
        "Memory",
        "Timeline of one step",
        "Comparison",
    ]


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = render_report(_report(timeline=_timeline(), measurement=_measurement()))
    assert all(target.startswith(("#", "data:")) for target in _outline(page).loads)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_figures_do_not_share_ids() -> None:
    ids = _outline(render_report(_report(timeline=_timeline(120), measurement=_measurement()))).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"])
def test_names_and_sentences_are_text(text: str) -> None:
    named = MODEL.model_copy(update={"name": text})
    somewhere = CLUSTER.model_copy(update={"name": text})
    comparison = compare(named, somewhere, TRAINING, strategies=(), plans={text: _plan()}, estimate=estimate_plan)
    page = render_report(_report(model=named, cluster=somewhere, why=[text], comparison=comparison))
    assert "<script" not in page
    assert "<img" not in page
    assert ">49<" not in page
    assert page.count(str(escape(text))) >= 5  # title, heading, job, why, comparison
    _outline(page)


def test_measurement_stands_beside_prediction() -> None:
    report = _report(measurement=_measurement())
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
        render_report(_report(measurement=_measurement(ranks=2)))


def test_a_measurement_without_steps_has_no_curves() -> None:
    page = render_report(_report(measurement=_measurement().model_copy(update={"steps": ()})))
    assert "Prediction and measurement" in page
    assert 'aria-label="Loss"' not in page


def test_the_comparison_marks_the_fastest_and_keeps_reasons() -> None:
    comparison = compare(MODEL, CLUSTER, TRAINING, strategies=("ddp", "zero3"), estimate=estimate_plan)
    page = render_report(_report(comparison=comparison))
    fastest = re.search(r'<tr class="fastest">\s*<td>([^<]*)', page)
    assert fastest is not None
    assert fastest[1] == "zero3"
    assert re.search(r'<tr class="cannot"><td>ddp</td><td colspan="10">pipeline rank 0 needs', page)


def test_a_long_step_also_shows_its_ends() -> None:
    assert 'aria-label="Timeline, start of the step"' not in render_report(_report(timeline=_timeline(8)))
    page = render_report(_report(timeline=_timeline(120)))
    assert 'aria-label="Timeline, start of the step"' in page
    assert 'aria-label="Timeline, end of the step"' in page


def test_the_same_report_is_the_same_page() -> None:
    report = _report(timeline=_timeline(), measurement=_measurement())
    assert render_report(report) == render_report(report)


def test_writing_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, _report())
    assert path.read_text().rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_report_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(SpecError):
        write_report(path, _report(measurement=_measurement(ranks=2)))
    assert path.read_text() == "old"


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", _report())


@pytest.mark.parametrize(("order", "fullest"), [("tp-cp-dp-pp", [11e9, 13e9]), ("tp-cp-pp-dp", [12e9, 13e9])])
def test_memory_is_that_of_a_stages_own_ranks(order: MeshOrder, fullest: list[float]) -> None:
    """Rank r of 4 has 10 + r GB; a stage's ranks are 0, 1 and 2, 3, or with the pipeline inside data parallelism 0, 2 and 1, 3."""
    stage = Stage(layers=(LayerRun(count=1),))
    plan = Plan(
        mesh=Mesh(pp=2, dp_replicate=2, order=order),
        micro_batch=1,
        microbatches=2,
        schedule="1f1b",
        stages=(stage,) * 2,
    )
    estimate = estimate_plan(MODEL, CLUSTER, TRAINING, _plan())
    lines = measured_lines(plan, estimate.model_copy(update={"memory": estimate.memory[:2]}), _measurement(4))
    shown = [line.measured for line in lines if line.what.startswith("peak memory")]
    assert shown == [f"{readable.size(size)} allocated" for size in fullest]
