"""The figures of a profile: what they draw, and the files they become."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from shardwright.reports.figures.log_axes import short
from shardwright.reports.figures.svg import Paint

from shardwright.base.errors import SpecError
from shardwright.catalog import devices as catalog
from shardwright.reports.profile.fit_chart import fit_residuals, left_out_residuals
from shardwright.reports.profile.plots import profile_charts, write_profile_plots
from shardwright.reports.profile.rate_charts import (
    attention_rates,
    kernel_rates,
    matmul_rates,
    operator_rates,
    transfer_rates,
)
from shardwright.reports.profile.roofline import roofline
from shardwright.reports.profile.work import work
from shardwright.specs.profile import Profile, Series
from tests.reports.made_up_profile import MEMORY_BYTES_PER_S, fingerprint, matmul, point, profile

H100 = {"kind": "gpu", "device": "NVIDIA H100 80GB HBM3", "device_memory_bytes": 85.0e9}


def painted(paint: Paint) -> list[Axes]:
    """The axes that it leaves on an empty figure."""
    figure = Figure(layout="constrained")
    paint(figure.add_subplot())
    return figure.axes


def dots(axes: Axes) -> list[tuple[float, float]]:
    """Every dot that is scattered on it."""
    return [(float(x), float(y)) for group in axes.collections for x, y in np.asarray(group.get_offsets())]


def series_of(operation: str) -> list[Series]:
    return [series for series in profile().series if series.operation == operation]


class TestRoofline:
    def test_each_point_at_its_flops_a_byte(self) -> None:
        series = matmul("forward", "fp32")
        (axes,) = painted(roofline(profile(series=(series,))))
        expected = [(done.intensity, done.flops / p.seconds) for p in series.points if (done := work(series, p))]
        np.testing.assert_allclose(sorted(dots(axes)), sorted(expected))
        assert axes.get_xscale() == axes.get_yscale() == "log"

    def test_the_slope_is_the_memory_and_meets_the_best_rate(self) -> None:
        (axes,) = painted(roofline(profile()))
        slope, roof = (np.asarray(line.get_xydata()) for line in axes.lines)
        np.testing.assert_allclose(slope[:, 1] / slope[:, 0], MEMORY_BYTES_PER_S, rtol=0.01)
        best = max(y for _, y in dots(axes))
        np.testing.assert_allclose(roof[:, 1], best)
        np.testing.assert_allclose(slope[-1], roof[0])
        assert {text.get_text() for text in axes.texts} == {"memory 20.0 GB/s", "best 188 GFLOP/s"}

    def test_the_data_sheet_where_the_card_is_known(self) -> None:
        (axes,) = painted(roofline(profile(fingerprint=fingerprint(**H100))))
        peak = catalog.device("h100-sxm").peak_flops_per_s["bf16"]
        assert any(np.asarray(line.get_ydata())[0] == peak for line in axes.lines)
        assert any(text.get_text() == "data sheet, bf16: 989 TFLOP/s" for text in axes.texts)
        assert axes.get_ylim()[1] > peak

    def test_without_operators_there_is_no_slope(self) -> None:
        (axes,) = painted(roofline(profile(series=(matmul("forward", "fp32"),))))
        assert [text.get_text() for text in axes.texts] == ["best 94.1 GFLOP/s"]


def test_matmuls_by_flops_coloured_by_their_inner_size() -> None:
    series = [matmul(part, "fp32") for part in ("weight_gradient", "forward", "input_gradient")]
    *panels, bar = painted(matmul_rates(series))
    assert [panel.get_title() for panel in panels] == ["forward", "input gradient", "weight gradient"]
    for panel in panels:
        expected = [(2 * m * k * n, 2 * m * k * n / p.seconds) for p in series[0].points for m, k, n in [p.at]]
        np.testing.assert_allclose(sorted(dots(panel)), sorted(expected))
        (drawn,) = panel.collections
        assert sorted(set(np.asarray(drawn.get_array()).tolist())) == [64, 256, 1024]
    assert bar.get_ylabel() == "inner size k"


def test_attention_by_length_a_line_a_head_size() -> None:
    forward, backward = painted(attention_rates(series_of("attention")))
    assert (forward.get_title(), backward.get_title()) == ("forward", "backward")
    for panel in (forward, backward):
        assert [line.get_label() for line in panel.lines] == ["heads of 32", "heads of 64", "heads of 128"]
        assert all(np.asarray(line.get_xdata()).tolist() == [128, 512, 2048] for line in panel.lines)


def attention(variant: str) -> Series:
    axes = ("batch", "heads", "kv_heads", "length", "head_size")
    points = (point((1, 8, 8, 64, 32), 1.0), point((1, 8, 2, 64, 32), 2.0))
    return Series(operation="attention", variant=variant, format="bf16", axes=axes, points=points)


def test_grouped_heads_have_lines_of_their_own() -> None:
    (panel,) = painted(attention_rates([attention("forward")]))
    assert [line.get_label() for line in panel.lines] == ["heads of 32", "heads of 32, 4 a KV head"]


def test_kernels_are_compared_whatever_the_heads() -> None:
    (panel,) = painted(kernel_rates([attention("forward"), attention("forward-math")]))
    assert [line.get_label() for line in panel.lines] == ["the default", "math"]
    flops = 4 * 8 * 64 * 32.5 * 32
    assert np.asarray(panel.lines[1].get_ydata()).tolist() == [flops * 0.75]  # the median of once and half
    names = [chart.name for chart in profile_charts(profile(series=(attention("forward"), attention("forward-math"))))]
    assert names == ["roofline", "attention-bf16", "attention-kernels-bf16"]


@pytest.mark.parametrize(("forward", "backward"), [(1.0, 100.0), (100.0, 1.0)])
def test_panels_share_a_scale_that_holds_the_points_of_both(forward: float, backward: float) -> None:
    axes = ("rows", "width")
    series = [
        Series(operation="copy", variant=way, format="fp32", axes=axes, points=(point((8, 8), seconds),))
        for way, seconds in (("forward", forward), ("backward", backward))
    ]
    for panel in painted(operator_rates(series)):
        low, high = panel.get_ylim()
        (rate,) = np.asarray(panel.lines[0].get_ydata())
        assert low < rate < high


def test_operators_by_bytes_moved() -> None:
    forward, backward = painted(operator_rates([*series_of("eager_rmsnorm"), *series_of("addition")]))
    assert [line.get_label() for line in forward.lines] == ["eager rmsnorm", "addition"]
    assert [line.get_label() for line in backward.lines] == ["eager rmsnorm"]
    largest = max(np.asarray(forward.lines[1].get_xdata()))
    assert largest == 4 * 3 * 4096 * 1024


def test_collectives_by_size_a_line_a_group() -> None:
    (axes,) = painted(transfer_rates(series_of("all_reduce")))
    assert [line.get_label() for line in axes.lines] == [
        "all reduce: 2 ranks",
        "all reduce: 2 ranks x 2 nodes, 2 at once",
    ]
    assert max(np.asarray(axes.lines[0].get_xdata())) == 2**24
    assert axes.get_xlabel() == "bytes"


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

    def test_each_panel_says_its_median(self) -> None:
        (chart,) = (chart for chart in profile_charts(profile()) if chart.name == "fits-matmul")
        fitted, left_out = painted(chart.paint)
        assert fitted.get_title().startswith("fitted: median 0.0%")
        assert left_out.get_title().startswith("left out of the fit: median")
        assert len(dots(fitted)) == 6 * 27


class TestFiles:
    def test_one_for_everything_that_was_measured(self, tmp_path: Path) -> None:
        written = write_profile_plots(tmp_path / "new" / "figures", profile())
        assert [path.name for path in written] == [
            "roofline.png",
            "matmul-fp32.png",
            "matmul-bf16.png",
            "attention-fp32.png",
            "bandwidth-operators-fp32.png",
            "bandwidth-optimizer.png",
            "bandwidth-host-copies.png",
            "bandwidth-disk.png",
            "bandwidth-collectives.png",
            "fits-matmul.png",
        ]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)

    def test_more_lines_than_one_can_tell_apart_are_told_by_operation(self) -> None:
        axes = ("size_bytes", "ranks_per_node", "nodes", "sharing")
        points = tuple(point((1024.0, ranks, 1.0, 1.0), 1.0) for ranks in range(2, 10))
        series = tuple(Series(operation=name, axes=axes, points=points) for name in ("all_reduce", "all_gather"))
        names = [chart.name for chart in profile_charts(profile(series=series))]
        assert names == ["bandwidth-collectives-all-reduce", "bandwidth-collectives-all-gather"]

    def test_grouped_matmuls_are_apart(self) -> None:
        shape = ("m", "k", "n", "groups")
        grouped = Series(
            operation="matmul", variant="grouped_forward", format="bf16", axes=shape, points=(point((8, 8, 8, 2), 1.0),)
        )
        names = [chart.name for chart in profile_charts(profile(series=(grouped, matmul("forward", "bf16"))))]
        assert names[1:3] == ["matmul-bf16", "matmul-grouped-bf16"]

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="nothing to plot"):
            write_profile_plots(tmp_path / "figures", Profile(fingerprint=fingerprint()))
        assert not (tmp_path / "figures").exists()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SpecError, match="cannot be made"):
            write_profile_plots(tmp_path / "file" / "figures", profile())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (20, "20"), (999, "999"), (1000, "1 k"), (1500, "1.5 k"), (2e10, "20 G"), (5e14, "500 T")],
)
def test_ticks_have_as_few_digits_as_they_need(value: float, text: str) -> None:
    assert short(value) == text
