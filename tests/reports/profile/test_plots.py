"""The charts of a profile: what they draw."""

import numpy as np
import pytest

from shardwright.catalog import devices as catalog
from shardwright.reports.charts import Lines
from shardwright.reports.profile import fit_chart
from shardwright.reports.profile.fit_chart import fit_charts, fit_residuals, left_out_residuals
from shardwright.reports.profile.plots import profile_figures
from shardwright.reports.profile.rate_charts import (
    attention_rates,
    kernel_rates,
    matmul_rates,
    operator_rates,
    transfer_rates,
)
from shardwright.reports.profile.report import render_profile_report
from shardwright.reports.profile.roofline import roofline
from shardwright.reports.profile.work import work
from shardwright.specs.profile import Profile, Series
from tests.reports.made_up_profile import MEMORY_BYTES_PER_S, fingerprint, matmul, point, profile

H100 = {"kind": "gpu", "device": "NVIDIA H100 80GB HBM3", "device_memory_bytes": 85.0e9}


def dots(chart: Lines) -> list[tuple[float, float]]:
    """Every point that no line joins."""
    return sorted(
        (one[0], one[1]) for curve in chart.curves if curve.loose for one in curve.points if one[1] is not None
    )


def names(chart: Lines) -> list[str]:
    return [curve.name for curve in chart.curves]


def series_of(operation: str) -> list[Series]:
    return [series for series in profile().series if series.operation == operation]


class TestRoofline:
    def test_each_point_at_its_flops_a_byte(self) -> None:
        series = matmul("forward", "fp32")
        chart = roofline(profile(series=(series,)))
        expected = [(done.intensity, done.flops / p.seconds) for p in series.points if (done := work(series, p))]
        np.testing.assert_allclose(dots(chart), sorted(expected))
        assert chart.x.logarithmic
        assert chart.y.logarithmic

    def test_the_slope_is_the_memory_and_meets_the_best_rate(self) -> None:
        chart = roofline(profile())
        slope, roof = (curve for curve in chart.curves if not curve.loose)
        assert [y / x for x, y, *_ in slope.points if y] == pytest.approx([MEMORY_BYTES_PER_S] * 2, rel=0.01)
        best = max(y for _, y in dots(chart))
        assert [y for _, y, *_ in roof.points] == [best, best]
        assert slope.points[-1] == pytest.approx(roof.points[0])
        assert (slope.name, roof.name) == ("memory 20.0 GB/s", "best 188 GFLOP/s")

    def test_the_data_sheet_where_the_card_is_known(self) -> None:
        chart = roofline(profile(fingerprint=fingerprint(**H100)))
        peak = catalog.device("h100-sxm").peak_flops_per_s["bf16"]
        assert ("data sheet, bf16: 989 TFLOP/s", peak) in [(mark.name, mark.value) for mark in chart.marks]

    def test_without_operators_there_is_no_slope(self) -> None:
        chart = roofline(profile(series=(matmul("forward", "fp32"),)))
        assert [curve.name for curve in chart.curves if not curve.loose] == ["best 94.1 GFLOP/s"]


def test_matmuls_by_flops_with_a_mark_for_each_inner_size() -> None:
    series = [matmul(part, "fp32") for part in ("weight_gradient", "forward", "input_gradient")]
    charts = matmul_rates(series)
    assert list(charts) == ["forward", "input gradient", "weight gradient"]
    for chart in charts.values():
        expected = [(2 * m * k * n, 2 * m * k * n / p.seconds) for p in series[0].points for m, k, n in [p.at]]
        np.testing.assert_allclose(dots(chart), sorted(expected))
        assert names(chart) == ["k 64", "k 256", "k 1,024"]


def test_many_inner_sizes_are_joined_by_powers_of_two() -> None:
    points = tuple(point((64.0, float(k), 64.0), 1.0) for k in range(60, 70))
    chart = matmul_rates(
        [Series(operation="matmul", variant="forward", format="fp32", axes=("m", "k", "n"), points=points)]
    )
    assert names(chart["forward"]) == ["k 32 to 63", "k 64 to 127"]
    assert len(dots(chart["forward"])) == 10


def test_attention_by_length_a_line_a_head_size() -> None:
    charts = attention_rates(series_of("attention"))
    assert list(charts) == ["forward", "backward"]
    for chart in charts.values():
        assert names(chart) == ["heads of 32", "heads of 64", "heads of 128"]
        assert all([one[0] for one in curve.points] == [128, 512, 2048] for curve in chart.curves)


def attention(variant: str) -> Series:
    axes = ("batch", "heads", "kv_heads", "length", "head_size")
    points = (point((1, 8, 8, 64, 32), 1.0), point((1, 8, 2, 64, 32), 2.0))
    return Series(operation="attention", variant=variant, format="bf16", axes=axes, points=points)


def test_grouped_heads_have_lines_of_their_own() -> None:
    (chart,) = attention_rates([attention("forward")]).values()
    assert names(chart) == ["heads of 32", "heads of 32, 4 a KV head"]


def test_kernels_are_compared_whatever_the_heads() -> None:
    (chart,) = kernel_rates([attention("forward"), attention("forward-math")]).values()
    assert names(chart) == ["the default", "math"]
    flops = 4 * 8 * 64 * 32.5 * 32
    assert [one[1] for one in chart.curves[1].points] == [flops * 0.75]  # the median of once and half
    figures = profile_figures(profile(series=(attention("forward"), attention("forward-math"))))
    assert [figure.name for figure in figures] == ["roofline", "attention-bf16", "attention-kernels-bf16"]


def test_operators_by_bytes_moved_keep_their_colour_in_both_directions() -> None:
    charts = operator_rates([*series_of("eager_rmsnorm"), *series_of("addition")])
    forward, backward = charts["forward"], charts["backward"]
    assert names(forward) == ["eager rmsnorm", "addition"]
    assert names(backward) == ["eager rmsnorm"]
    assert backward.curves[0].colour == forward.curves[0].colour
    assert max(one[0] for one in forward.curves[1].points) == 4 * 3 * 4096 * 1024


def test_collectives_by_size_a_line_a_group() -> None:
    chart = transfer_rates(series_of("all_reduce"))
    assert names(chart) == ["all reduce: 2 ranks", "all reduce: 2 ranks x 2 nodes, 2 at once"]
    assert max(one[0] for one in chart.curves[0].points) == 2**24
    assert chart.x.name == "bytes"


class TestFits:
    def test_residuals_are_fitted_over_measured(self) -> None:
        """The curve of these is the formula that they were made with: but for one point, which took twice as long."""
        series = matmul("forward", "fp32")
        slow = series.points[13].model_copy(update={"seconds": 2 * series.points[13].seconds})
        slow = slow.model_copy(update={"high_seconds": 2 * slow.high_seconds})
        bent = series.model_copy(update={"points": (*series.points[:13], slow, *series.points[14:])})
        errors = [error for _, error in fit_residuals(bent)]
        assert len(errors) == 27
        assert min(errors) == errors[13] < -0.02
        assert [seconds for seconds, _ in fit_residuals(bent)] == [each.seconds for each in bent.points]

    def test_left_out_points_need_others(self) -> None:
        series = matmul("forward", "fp32")
        assert len(left_out_residuals(series)) == 27
        assert left_out_residuals(series.model_copy(update={"points": series.points[:3]})) == []

    def test_axes_without_a_curve_have_none(self) -> None:
        series = Series(operation="teleport", axes=("souls",), points=(point((1.0,), 1.0),))
        assert fit_residuals(series) == []

    def test_each_chart_says_its_median(self) -> None:
        (figure,) = (figure for figure in profile_figures(profile()) if figure.name == "fits-matmul")
        fitted, left_out = figure.charts
        assert fitted.startswith("fitted: median 0.0%")
        assert left_out.startswith("left out of the fit: median")
        chart = figure.charts[fitted]
        assert isinstance(chart, Lines)
        assert len(dots(chart)) == 6 * 27

    def test_points_far_outside_are_drawn_at_the_edge_and_say_where_they_are(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        errors = [(1.0, 0.001 * place) for place in range(99)] + [(2.0, 7.0)]
        monkeypatch.setattr(fit_chart, "fit_residuals", lambda series: errors)
        monkeypatch.setattr(fit_chart, "left_out_residuals", lambda series: [])
        ((title, chart),) = fit_charts([matmul("forward", "fp32")]).items()
        (outside,) = (
            one for curve in chart.curves for one in curve.points if len(one) == 3 and one[2] == "outside: +700.0%"
        )
        assert outside[1] == max(one[1] for curve in chart.curves for one in curve.points if one[1] is not None) < 0.1
        assert ", 3 outside" in title


class TestFigures:
    def test_one_for_everything_that_was_measured(self) -> None:
        assert [figure.name for figure in profile_figures(profile())] == [
            "roofline",
            "matmul-fp32",
            "matmul-bf16",
            "attention-fp32",
            "bandwidth-operators-fp32",
            "bandwidth-optimizer",
            "bandwidth-host-copies",
            "bandwidth-disk",
            "bandwidth-collectives",
            "fits-matmul",
        ]

    def test_the_page_has_an_element_for_each_chart(self) -> None:
        page = render_profile_report(profile(), name="p.json")
        expected = sum(len(figure.charts) for figure in profile_figures(profile()))
        assert page.count('<div class="chart" data-chart=') == expected > 10

    def test_more_lines_than_one_can_tell_apart_are_told_by_operation(self) -> None:
        axes = ("size_bytes", "ranks_per_node", "nodes", "sharing")
        points = tuple(point((1024.0, ranks, 1.0, 1.0), 1.0) for ranks in range(2, 10))
        series = tuple(Series(operation=name, axes=axes, points=points) for name in ("all_reduce", "all_gather"))
        found = [figure.name for figure in profile_figures(profile(series=series))]
        assert found == ["bandwidth-collectives-all-reduce", "bandwidth-collectives-all-gather"]

    def test_grouped_matmuls_are_apart(self) -> None:
        shape = ("m", "k", "n", "groups")
        grouped = Series(
            operation="matmul", variant="grouped_forward", format="bf16", axes=shape, points=(point((8, 8, 8, 2), 1.0),)
        )
        found = [figure.name for figure in profile_figures(profile(series=(grouped, matmul("forward", "bf16"))))]
        assert found[1:3] == ["matmul-bf16", "matmul-grouped-bf16"]

    def test_nothing_to_draw_is_a_page_without_charts(self) -> None:
        page = render_profile_report(Profile(fingerprint=fingerprint()), name="p.json")
        assert "data-chart" not in page
        assert "<script" not in page
