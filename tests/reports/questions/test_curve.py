"""Charts and pages of answers."""

from dataclasses import replace

import pytest

from shardwright.reports.questions import Answer, Curve
from shardwright.reports.questions.answer import render_answer
from shardwright.reports.questions.curve import curve_chart
from tests.reports.pages.test_report import report_of

CURVE = Curve(
    title="cost",
    x_label="days",
    y_label="cost",
    points=((40.0, 90.0), (1.0, 100.0), (1.001, 100.1), (1.002, 100.2)),
    labels=("8 devices", "64 devices", "65 devices", "66 devices"),
    joined=(0, 1),
    joined_label="best",
    best=3,
    best_label="answer",
)


def answer() -> Answer:
    rows = tuple((label, report_of().plan, ("1 s", "<b>")) for label in CURVE.labels)
    return Answer(
        title="what <i>costs</i>",
        first="devices",
        columns=("step", "cost"),
        rows=rows,
        best=3,
        lines=("a line",),
        curve=CURVE,
    )


def test_every_point_is_drawn_once_with_its_label_and_the_answer_again() -> None:
    chart = curve_chart(CURVE)
    line, dots = (curve for curve in chart.curves if curve.name == "best")
    drawn = {curve.name: curve for curve in chart.curves}
    assert (line.loose, dots.loose) == (False, True)
    assert line.points == ((1.0, 100.0, "64 devices"), (40.0, 90.0, "8 devices"))
    assert dots.points == line.points
    assert [point[2] for point in drawn["others"].points if len(point) == 3] == ["65 devices", "66 devices"]
    assert drawn["answer"].points == ((1.002, 100.2, "66 devices"),)


def test_a_limit_is_a_mark_and_a_linear_axis_none_that_is_logarithmic() -> None:
    chart = curve_chart(replace(CURVE, linear=True, limit=95.0, limit_label="deadline"))
    assert [(mark.name, mark.value) for mark in chart.marks] == [("deadline", 95.0)]
    assert (chart.x.logarithmic, chart.y.logarithmic) == (True, False)


def test_a_single_point() -> None:
    one = replace(CURVE, points=((5.0, 7.0),), labels=("8 devices",), joined=(0,), best=None)
    assert [curve.name for curve in curve_chart(one).curves] == ["best", "best"]


@pytest.mark.parametrize("curve", [CURVE, None])
def test_the_page_has_rows_and_sentences_as_text_and_the_chart_where_there_is_one(curve: Curve | None) -> None:
    page = render_answer(replace(answer(), curve=curve))
    assert "what &lt;i&gt;costs&lt;/i&gt;" in page
    assert page.count("&lt;b&gt;</td>") == 4
    assert page.count('class="fastest"') == 1
    assert "<li>a line</li>" in page
    assert ("data-chart" in page) is (curve is not None)
