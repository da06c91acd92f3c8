"""Figures of answers: labels hide nothing, and the axes fit the points."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from shardwright.base import SpecError
from shardwright.reports.questions import Curve, write_curve
from shardwright.reports.questions.curve import _labelled, _paint

_CURVE = Curve(
    title="cost",
    x_label="days",
    y_label="cost",
    points=((1.0, 100.0), (1.001, 100.1), (1.002, 100.2), (40.0, 90.0)),
    labels=("64 devices", "65 devices", "66 devices", "8 devices"),
    joined=(0, 3),
    joined_label="best",
    best=2,
    best_label="answer",
)


def test_labels_do_not_overlap_and_the_answer_has_one() -> None:
    axes = Figure(figsize=(8, 5)).add_subplot()
    axes.set_xlim(0, 50)
    axes.set_ylim(80, 110)
    assert _labelled(axes, _CURVE) == [2, 3]
    assert _labelled(axes, replace(_CURVE, best=None)) == [0, 3]


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.PDF"])
def test_every_format(tmp_path: Path, name: str, linear: bool) -> None:
    write_curve(tmp_path / name, replace(_CURVE, linear=linear, limit=95.0, limit_label="deadline"))
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize("limit", [60.0, 95.0, 130.0])
def test_labels_and_limit_lie_inside_the_axes(limit: float) -> None:
    axes = Figure(figsize=(8, 5)).add_subplot()
    _paint(axes, replace(_CURVE, linear=True, limit=limit, limit_label="deadline"))
    low, high = axes.get_ylim()
    assert low < limit < high
    right = axes.get_window_extent().x1
    assert axes.texts
    assert all(text.get_window_extent().x1 <= right for text in axes.texts)


def test_a_single_point(tmp_path: Path) -> None:
    one = replace(_CURVE, points=((5.0, 7.0),), labels=("8 devices",), joined=(0,), best=0, linear=True)
    write_curve(tmp_path / "one.png", one)


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"a\.gif: cannot tell the figure's format; end the name with \.png"):
        write_curve(tmp_path / "a.gif", _CURVE)
