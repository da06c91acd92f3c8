"""Points foretold by the other points."""

from collections.abc import Callable, Sequence

import pytest

from shardwright.profiler.sizes.interpolation_error import left_out_errors, predicted_seconds
from shardwright.profiler.timing.probe import Sizes
from shardwright.specs.profile import Point, Series


def made_up(sizes: Sequence[Sizes], formula: Callable[[Sizes], float]) -> Series:
    points = tuple(
        Point(at=at, seconds=formula(at), low_seconds=formula(at), high_seconds=formula(at), repeats=6) for at in sizes
    )
    return Series(operation="made-up", axes=tuple(f"axis{number}" for number in range(len(sizes[0]))), points=points)


class TestErrors:
    def test_a_power_law_is_foretold(self) -> None:
        sizes = [(float(m), float(n)) for m in (64, 256, 1024) for n in (32, 512, 4096)]
        errors = left_out_errors(made_up(sizes, lambda at: 1e-9 * at[0] * at[1] ** 0.9))
        assert len(errors) == 9
        assert max(errors) < 0.05

    def test_the_bend_is_where_it_is_worst(self) -> None:
        sizes = [(float(2**power),) for power in range(10, 31, 2)]
        errors = left_out_errors(made_up(sizes, lambda at: max(1e-5, at[0] / 1e10)))
        worst = max(range(1, len(sizes) - 1), key=lambda index: errors[index])
        assert sizes[worst][0] in (2**16, 2**18)
        assert errors[worst] > 0.2

    def test_one_point_that_sticks_out(self) -> None:
        """By a factor of two: the others foretell half of it, and those far from it are not troubled."""
        sizes = [(float(2**power),) for power in range(10, 21)]
        errors = left_out_errors(made_up(sizes, lambda at: at[0] * (2 if at[0] == 2**15 else 1)))
        assert errors[5] == pytest.approx(0.5, abs=0.02)
        assert max(errors[1:3] + errors[8:10]) < 0.1

    def test_it_is_what_leaving_each_out_gives(self) -> None:
        sizes = [(float(m), float(n)) for m in (64, 256, 1024) for n in (32, 500, 4096)]
        whole = made_up(sizes, lambda at: 1e-6 + 1e-9 * at[0] * at[1] ** 0.9)
        for index, error in enumerate(left_out_errors(whole)):
            others = whole.model_copy(update={"points": whole.points[:index] + whole.points[index + 1 :]})
            predicted = predicted_seconds(others, sizes[index])
            assert predicted is not None
            assert error == pytest.approx(abs(predicted / whole.points[index].seconds - 1), rel=1e-3, abs=1e-4)

    @pytest.mark.parametrize("count", [1, 2])
    def test_too_few_points(self, count: int) -> None:
        assert left_out_errors(made_up([(1.0,), (2.0,)][:count], lambda at: 1.0)) == []

    def test_an_axis_that_never_changes(self) -> None:
        sizes = [(float(2**power), 16.0) for power in range(10, 16)]
        assert max(left_out_errors(made_up(sizes, lambda at: at[0]))) < 0.05


class TestPrediction:
    def test_between_and_beyond(self) -> None:
        series = made_up([(float(2**power),) for power in range(10, 16)], lambda at: 3e-9 * at[0])
        for size in (1500.0, 2.0**17):
            assert predicted_seconds(series, (size,)) == pytest.approx(3e-9 * size, rel=0.05)

    def test_one_point_is_taken_as_work_that_grows_with_its_sizes(self) -> None:
        series = made_up([(8.0, 2.0)], lambda at: 2.0)
        assert predicted_seconds(series, (64.0, 2.0)) == pytest.approx(16.0)
        assert predicted_seconds(series, (2.0, 2.0)) == pytest.approx(2.0)

    def test_nothing_foretells_nothing(self) -> None:
        assert predicted_seconds(Series(operation="made-up", axes=("size",)), (1.0,)) is None
