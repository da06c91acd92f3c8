"""Figures: what they show as text, and that they take the page's colour."""

import pytest
from matplotlib.axes import Axes
from shardwright.reports.plan.charts import comparison_chart, memory_chart, step_chart
from shardwright.reports.plan.timeline_chart import detail_windows, timeline_chart

from shardwright.base import units as readable
from shardwright.compare.side_by_side import compare
from shardwright.reports.figures.svg import draw
from shardwright.specs.results.timeline import Span, Timeline
from tests.reports.plan.test_report import CLUSTER, MODEL, TRAINING, _plan
from tests.validation.fake_costs import cluster, estimate_plan

ESTIMATE = estimate_plan(MODEL, CLUSTER, TRAINING, _plan())


def _steps(blocks: int) -> Timeline:
    spans = tuple(Span(0, "compute", f"0F{i}", float(i), float(i + 1), 0, i) for i in range(blocks))
    return Timeline(1, spans, ())


def test_a_figure_follows_the_page() -> None:
    def paint(axes: Axes) -> None:
        axes.set_xlabel("seconds")

    figure = draw(paint, label="A figure")
    assert figure.startswith('<svg role="img" aria-label="A figure"')
    assert "currentColor" in figure
    assert "#010203" not in figure
    assert "seconds" in figure
    assert 'width="' not in figure.split(">", 1)[0]


def test_two_figures_share_no_id() -> None:
    one = draw(lambda axes: None, label="One")
    two = draw(lambda axes: None, label="Two")
    assert 'id="one-' in one
    assert 'id="one-' not in two


def test_the_step_names_every_cause_that_takes_time() -> None:
    figure = step_chart(ESTIMATE)
    assert "compute" in figure
    assert "pipeline bubble" in figure
    assert "host copy" not in figure


def test_memory_shows_every_pipeline_rank_and_the_capacity() -> None:
    figure = memory_chart(ESTIMATE, cluster().groups[0].device.memory_bytes)
    assert [f"rank {rank}" in figure for rank in range(5)] == [True, True, True, True, False]
    assert "capacity 74.5 GiB" in figure
    assert "logits" not in figure  # the fake has none


def test_the_comparison_shows_what_fits_with_its_seconds() -> None:
    comparison = compare(MODEL, CLUSTER, TRAINING, strategies=("ddp", "zero3", "megatron"), estimate=estimate_plan)
    figure = comparison_chart(comparison)
    assert ">ddp<" not in figure
    for compared in comparison.rows[1:]:
        assert f">{compared.name}<" in figure
        assert compared.step_seconds is not None
        assert readable.seconds(compared.step_seconds) in figure


def test_a_name_in_a_figure_is_text() -> None:
    plans = {"<b>$x$</b>": _plan()}
    figure = comparison_chart(compare(MODEL, CLUSTER, TRAINING, strategies=(), plans=plans, estimate=estimate_plan))
    assert ">&lt;b&gt;$x$&lt;/b&gt;</text>" in figure


def test_blocks_carry_their_microbatch_where_there_is_room() -> None:
    assert ">7<" in timeline_chart(_steps(10)).replace("</", "<")
    assert ">777<" not in timeline_chart(_steps(1000)).replace("</", "<")


@pytest.mark.parametrize(("blocks", "windows"), [(10, []), (112, []), (1000, [(0.0, 56.0), (944.0, 1000.0)])])
def test_a_step_of_many_blocks_has_windows_at_its_ends(blocks: int, windows: list[tuple[float, float]]) -> None:
    assert detail_windows(_steps(blocks)) == windows


def test_a_timeline_of_very_many_blocks_is_an_image() -> None:
    assert "data:image/png" in timeline_chart(_steps(7000))
    assert "data:image/png" not in timeline_chart(_steps(500))


def test_a_split_backward_is_two_kinds_of_block_and_an_overlapped_pair_shows_both_microbatches() -> None:
    names = ("0F5", "1I6", "1W6", "(0F13;1B9)OVERLAP_F_B")
    spans = tuple(Span(0, "compute", name, float(i), float(i + 1), 0, 5) for i, name in enumerate(names))
    figure = timeline_chart(Timeline(1, spans, ())).replace("</", "<")
    for text in ("forward", "backward", "input gradient", "weight gradient", "5", "6", "13", "9"):
        assert f">{text}<" in figure
    assert ">optimizer<" not in figure


def test_a_timeline_without_compute_has_no_windows() -> None:
    assert detail_windows(Timeline(1, (), ())) == []
