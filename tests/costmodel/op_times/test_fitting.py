"""Curves through measured points: they meet the points, go on physically, and say how far off they are."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from shardwright.costmodel.op_times.curves import ATTENTION, MATMUL, RING, ROWS, TABLE, TRANSFER, UPDATE, form_of
from shardwright.costmodel.op_times.fitting import expected_errors, fit_curve, fitted, left_out_errors
from shardwright.specs.profile import Series
from tests.costmodel.op_times.made_up_profile import (
    FLOPS_PER_S,
    attention_rule,
    elements_rule,
    made_up_profile,
    matmul_rule,
    point,
    series,
)

PROFILE = made_up_profile()


def found(operation: str, variant: str) -> Series:
    series = PROFILE.find(operation, variant, "bf16")
    assert series is not None
    return series


class TestAtMeasuredSizesAndBetween:
    @pytest.mark.parametrize("at", [(512.0, 2048.0, 512.0), (300.0, 700.0, 5000.0)], ids=["measured", "between"])
    def test_matmul(self, at: tuple[float, float, float]) -> None:
        curve = fitted(found("matmul", "forward"))
        assert curve is not None
        assert curve.seconds(*at) == pytest.approx(matmul_rule(*at), rel=0.05)

    def test_attention_counts_batch_times_heads(self) -> None:
        curve = fitted(found("attention", "forward"))
        assert curve is not None
        assert curve.seconds(64.0, 2048.0, 128.0) == pytest.approx(attention_rule(4, 16, 16, 2048, 128), rel=0.05)

    def test_an_operator_is_told_by_its_elements(self) -> None:
        curve = fitted(found("copy", "forward"))
        assert curve is not None
        assert curve.seconds(512.0 * 2048) == pytest.approx(elements_rule(512, 2048), rel=0.05)

    def test_sizes_broadcast(self) -> None:
        curve = fitted(found("matmul", "forward"))
        assert curve is not None
        many = curve.seconds(np.array([[256.0], [512.0]]), 512.0, np.array([256.0, 1024.0, 4096.0]))
        assert many.shape == (2, 3)
        assert many[1, 2] == pytest.approx(float(curve.seconds(512.0, 512.0, 4096.0)))


class TestBeyondTheMeasured:
    def test_the_physical_curve_goes_on(self) -> None:
        """A thousand times the FLOPs of the largest point."""
        curve = fitted(found("matmul", "forward"))
        assert curve is not None
        assert curve.seconds(81920.0, 81920.0, 81920.0) == pytest.approx(2 * 81920**3 / FLOPS_PER_S, rel=0.1)

    def test_no_cliff_where_the_points_end(self) -> None:
        """One bump near the largest points: the way from it to the physical curve is smooth."""
        bumped = found("matmul", "forward")
        points = tuple(each if max(each.at) < 8192 else point(each.at, 1.3 * each.seconds) for each in bumped.points)
        curve = fitted(bumped.model_copy(update={"points": points}))
        assert curve is not None
        sizes = np.geomspace(2048, 200_000, 400)
        rate = sizes**3 / curve.seconds(sizes, sizes, sizes)
        assert np.abs(np.diff(np.log(rate))).max() < 0.02

    def test_far_from_all_points_a_residual_is_forgotten(self) -> None:
        curve = fitted(found("matmul", "forward"))
        assert curve is not None
        assert curve.around.factor(1e9, 1e9, 1e9) == pytest.approx(1.0)


class TestWhatTheFitSaysOfItself:
    def test_parameters_are_those_that_made_the_points(self) -> None:
        curve = fit_curve(found("matmul", "forward"))
        assert curve is not None
        assert curve.parameters["flops_per_s"] == pytest.approx(FLOPS_PER_S, rel=0.05)
        assert curve.residual_median < 0.01

    def test_left_out_points_are_not_seen(self) -> None:
        """Points of pure chance: what was seen can be met, what was left out cannot."""
        chance = np.random.default_rng(3)
        sizes = [(float(size), 64.0, 64.0) for size in np.geomspace(64, 65536, 25)]
        wild = series("matmul", "forward", "bf16", ("m", "k", "n"), sizes, lambda *_: float(np.exp(chance.normal())))
        errors = left_out_errors(wild)
        assert errors is not None
        assert np.median(np.abs(errors)) > 0.3

    def test_the_median_of_left_out_points_is_told(self) -> None:
        curve, errors = fit_curve(found("copy", "forward")), left_out_errors(found("copy", "forward"))
        assert curve is not None
        assert errors is not None
        assert curve.left_out_median == pytest.approx(float(np.median(np.abs(errors))))

    def test_the_quick_expectation_finds_the_point_that_is_off(self) -> None:
        points = list(found("matmul", "forward").points)
        points[37] = point(points[37].at, 1.5 * points[37].seconds)
        errors = expected_errors(found("matmul", "forward").model_copy(update={"points": tuple(points)}))
        assert int(np.argmax(errors)) == 37
        assert errors[37] == pytest.approx(1 / 3, abs=0.1)
        assert float(np.median(errors)) < 0.02

    def test_too_few_points_leave_none_out(self) -> None:
        few = found("copy", "forward").model_copy(update={"points": found("copy", "forward").points[:4]})
        curve = fit_curve(few)
        assert curve is not None
        assert curve.left_out_median is None
        assert left_out_errors(few) is None
        assert expected_errors(few.model_copy(update={"points": few.points[:2]})) == []

    def test_disturbed_points_do_not_bend_the_curve(self) -> None:
        """One in six took five times as long; a plain mean of the logarithms would be a quarter off."""
        series = found("matmul", "forward")
        disturbed = set(np.random.default_rng(2).permutation(len(series.points))[: len(series.points) // 6].tolist())
        points = tuple(
            point(each.at, 5 * each.seconds) if place in disturbed else each for place, each in enumerate(series.points)
        )
        curve = fit_curve(series.model_copy(update={"points": points}))
        assert curve is not None
        sizes = np.array([each.at for each in series.points]).T
        undisturbed = np.array([each.seconds for each in series.points])
        assert np.median(MATMUL.seconds(curve.parameters, *sizes) / undisturbed) == pytest.approx(1, abs=0.08)


def test_a_fit_that_is_in_the_file_is_not_made_again() -> None:
    series = found("matmul", "forward")
    curve = fit_curve(series)
    assert curve is not None
    halved = curve.model_copy(update={"parameters": curve.parameters | {"flops_per_s": FLOPS_PER_S / 2}})
    slow = fitted(series.model_copy(update={"curve": halved}))
    assert slow is not None
    bare = replace(slow, around=replace(slow.around, residuals=np.zeros_like(slow.around.residuals)))
    assert bare.seconds(8192.0, 8192.0, 8192.0) == pytest.approx(2 * 2 * 8192**3 / FLOPS_PER_S, rel=0.1)


@pytest.mark.parametrize("change", ["form", "parameter", "reach"])
def test_a_fit_of_another_form_is_made_again(change: str) -> None:
    """A file of an earlier version, whose curve had another name or other parameters, is read all the same."""
    series = found("matmul", "forward")
    curve = fit_curve(series)
    assert curve is not None
    kept = {name: value for name, value in curve.parameters.items() if change == "form" or name != _LOST[change]}
    earlier = curve.model_copy(update={"form": "another" if change == "form" else curve.form, "parameters": kept})
    again = fitted(series.model_copy(update={"curve": earlier}))
    assert again is not None
    assert again.parameters["flops_per_s"] == curve.parameters["flops_per_s"]


_LOST = {"parameter": "flops_per_s", "reach": "reach"}


@pytest.mark.parametrize(
    ("axes", "form"),
    [
        (("m", "k", "n"), MATMUL),
        (("m", "k", "n", "groups"), MATMUL),
        (("batch", "heads", "kv_heads", "length", "head_size"), ATTENTION),
        (("rows", "width"), ROWS),
        (("rows", "width", "tokens"), TABLE),
        (("elements", "tensors"), UPDATE),
        (("size_bytes",), TRANSFER),
        (("size_bytes", "ranks_per_node", "nodes", "sharing"), RING),
        (("parsecs",), None),
    ],
)
def test_axes_have_a_form(axes: tuple[str, ...], form: object) -> None:
    assert form_of(axes) is form


def test_axes_without_a_form_are_no_curve() -> None:
    strange = Series(operation="strange", axes=("parsecs",), points=(point((3.0,), 1.0),))
    assert fitted(strange) is None
    assert fit_curve(strange) is None


class TestRing:
    parameters: ClassVar = {
        "start_seconds": 1e-5, "within_step_seconds": 1e-6, "across_step_seconds": 1e-5,
        "within_bytes_per_s": 1e11, "across_bytes_per_s": 1e10,
    }  # fmt: skip

    def test_within_a_node(self) -> None:
        seconds = RING.seconds(self.parameters, 4e9, 4.0, 1.0, 1.0)
        assert seconds == pytest.approx(1e-5 + 3e-6 + 3 / 4 * 4e9 / 1e11)

    def test_groups_that_share_a_network_divide_it(self) -> None:
        seconds = RING.seconds(self.parameters, 4e9, 1.0, 4.0, 8.0)
        assert seconds == pytest.approx(1e-5 + 3e-5 + 3 / 4 * 4e9 / (1e10 / 8))
