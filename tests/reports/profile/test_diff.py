"""Two profiles beside each other: what differs by more than noise."""

import math

import pytest

from shardwright.reports.profile.diff import ProfileDifference, SeriesDifference, compare_profiles
from shardwright.reports.profile.diff_table import diff_tables, verdict_sentence
from shardwright.specs.profile import Figure, Profile, Series
from tests.reports.made_up_profile import fingerprint, matmul, matmul_seconds, point, profile
from tests.reports.profile.test_tables import printed


def of(series: Series, **changes: object) -> Profile:
    return Profile(fingerprint=fingerprint(**changes), series=(series,))


def by_size(seconds_at: dict[float, float], *, spread: float = 0.01, operation: str = "disk_read") -> Series:
    points = tuple(point((size,), seconds, spread=spread) for size, seconds in seconds_at.items())
    return Series(operation=operation, variant="direct", axes=("size_bytes",), points=points)


def only(found: ProfileDifference) -> SeriesDifference:
    (series,) = found.series
    return series


def test_a_profile_beside_itself() -> None:
    found = compare_profiles(profile(), profile())
    assert found.beyond_noise == 0
    assert {each.ratio for each in found.series} == {1.0}
    assert verdict_sentence(found) == "Nothing beyond noise: 21 series and figures agree within it."
    assert [*found.fingerprint, *found.only_in_a, *found.only_in_b, *found.incomparable] == []


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (1 / 1.3, "faster"), (1.04, "within noise")])
def test_all_of_it_takes_longer_or_less(factor: float, verdict: str) -> None:
    found = only(compare_profiles(of(matmul("forward", "fp32")), of(matmul("forward", "fp32", factor=factor))))
    assert (found.verdict, found.sizes, found.interpolated) == (verdict, 27, False)
    assert found.ratio == pytest.approx(factor)
    assert found.rate_a is not None
    assert found.rate_b == pytest.approx(found.rate_a / factor)


def test_wide_intervals_are_noise() -> None:
    """Intervals of 30% to either side of both: 1.3 times as long says nothing."""
    a, b = matmul("forward", "fp32", spread=0.3), matmul("forward", "fp32", factor=1.3, spread=0.3)
    found = only(compare_profiles(of(a), of(b)))
    assert found.verdict == "within noise"
    assert found.noise == pytest.approx(math.sqrt(2) * math.log(1.3 / 0.7) / 2)


def test_sizes_that_changed_very_differently_are_noise() -> None:
    """All faster but for one, by 5% to 45%: a machine that others share, measured twice."""
    a = by_size({float(size): 1.0 for size in range(1, 7)})
    b = by_size(dict(zip((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (0.55, 0.62, 0.75, 0.85, 0.95, 1.05), strict=True)))
    found = only(compare_profiles(of(a), of(b)))
    assert found.ratio == pytest.approx(0.8, rel=0.01)
    assert found.noise > 0.2
    assert found.verdict == "within noise"


def test_sizes_that_changed_alike_are_not() -> None:
    a = by_size({float(size): 1.0 for size in range(1, 7)})
    b = by_size(dict(zip((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (0.76, 0.78, 0.8, 0.8, 0.82, 0.84), strict=True)))
    found = only(compare_profiles(of(a), of(b)))
    assert found.noise < 0.06
    assert found.verdict == "faster"


def test_a_gpu_repeats_itself_more_closely() -> None:
    a, b = matmul("forward", "fp32", spread=0.001), matmul("forward", "fp32", factor=1.04, spread=0.001)
    card = {"kind": "gpu", "device": "NVIDIA H100 80GB HBM3"}
    assert only(compare_profiles(of(a, **card), of(b, **card))).verdict == "slower"
    assert only(compare_profiles(of(a, **card), of(b))).verdict == "within noise"


def test_sizes_that_disagree_are_no_verdict() -> None:
    """Three of these are a third slower, but two of five are faster."""
    a = by_size({float(size): 1.0 for size in range(1, 6)})
    b = by_size(dict(zip((1.0, 2.0, 3.0, 4.0, 5.0), (1.35, 1.35, 1.35, 0.8, 0.7), strict=True)))
    found = only(compare_profiles(of(a), of(b)))
    assert found.ratio == pytest.approx(1.35)
    assert [found.low, found.high] == pytest.approx([0.7, 1.35])
    assert math.log(found.ratio) > found.noise
    assert found.verdict == "within noise"


class TestOtherSizes:
    def test_those_between_are_interpolated(self) -> None:
        """Seconds grow with the size, twice as fast in the second: twice as long between its sizes, too."""
        a = by_size({3.0 * 4**step: 3.0 * 4**step for step in range(6)})
        b = by_size({2.0 * 4**step: 2 * 2.0 * 4**step for step in range(8)})
        found = only(compare_profiles(of(a), of(b)))
        assert (found.interpolated, found.sizes) == (True, 6)
        assert found.ratio == pytest.approx(2.0)
        assert found.verdict == "slower"

    def test_shapes_between_are_interpolated(self) -> None:
        def at(shapes: list[tuple[float, float, float]], factor: float) -> Series:
            points = tuple(point(shape, factor * matmul_seconds(*shape, "fp32")) for shape in shapes)
            return Series(operation="matmul", variant="forward", format="fp32", axes=("m", "k", "n"), points=points)

        between = [(256.0, 128.0, 256.0), (1024.0, 512.0, 1024.0), (256.0, 512.0, 1024.0), (1024.0, 128.0, 256.0)]
        found = only(compare_profiles(of(at(between, 2.0)), of(matmul("forward", "fp32"))))
        assert found.interpolated
        assert found.ratio == pytest.approx(0.5, rel=0.1)
        assert found.verdict == "faster"

    def test_what_interpolation_misses_is_noise(self) -> None:
        """Every other point takes three times as long: nothing in between is known."""
        a = by_size({3.0 * 4**step: 1.0 for step in range(6)})
        b = by_size({2.0 * 4**step: 3.0 if step % 2 else 1.0 for step in range(8)})
        found = only(compare_profiles(of(a), of(b)))
        assert found.noise > 0.5
        assert found.verdict == "within noise"

    def test_sizes_outside_are_not_compared(self) -> None:
        a, b = by_size({1.0: 1.0, 2.0: 1.0, 4.0: 1.0}), by_size({100.0: 1.0, 200.0: 1.0, 400.0: 1.0})
        found = compare_profiles(of(a), of(b))
        assert found.series == []
        assert found.incomparable == ["disk_read/direct"]

    def test_other_axes_are_not_compared(self) -> None:
        other = Series(operation="disk_read", variant="direct", axes=("blocks",), points=(point((1.0,), 1.0),))
        assert compare_profiles(of(by_size({1.0: 1.0})), of(other)).incomparable == ["disk_read/direct"]


class TestFigures:
    def figure(self, value: float, spread: float | None = None, unit: str = "s") -> Figure:
        low, high = (None, None) if spread is None else (value * (1 - spread), value * (1 + spread))
        return Figure(value=value, unit=unit, meaning="", low=low, high=high)

    @pytest.mark.parametrize(
        ("a", "b", "spread", "verdict"),
        [
            (1.0, 1.2, 0.01, "more"),
            (1.2, 1.0, 0.01, "less"),
            (1.0, 1.2, 0.2, "within noise"),
            (1.0, 1.04, 0.001, "within noise"),
            (1.0, 1.06, 0.001, "more"),
            (1.0, 1.4, None, "more"),
            (1.0, 1.25, None, "within noise"),
            (0.0, 1.0, None, "more"),
            (1.0, 0.0, None, "less"),
        ],
    )
    def test_intervals_that_do_not_touch(self, a: float, b: float, spread: float | None, verdict: str) -> None:
        one, other = (profile(series=(), figures={"x": self.figure(value, spread)}) for value in (a, b))
        (found,) = compare_profiles(one, other).figures
        assert found.verdict == verdict
        assert found.ratio == (b / a if a else None)

    def test_a_share_that_was_seen_once_is_compared_in_points(self) -> None:
        """4% of overhead or 6% is much the same, 4% or 12% is not, whatever their ratio."""
        for other, verdict in ((0.06, "within noise"), (0.12, "more")):
            one, two = (profile(figures={"x": self.figure(value, unit="share")}) for value in (0.04, other))
            (found,) = compare_profiles(one, two).figures
            assert found.verdict == verdict

    def test_a_gpu_repeats_a_single_figure_more_closely(self) -> None:
        card = fingerprint(kind="gpu")
        one, two = (profile(figures={"x": self.figure(value)}, fingerprint=card) for value in (1.0, 1.15))
        assert compare_profiles(one, two).figures[0].verdict == "more"

    def test_other_units_are_not_compared(self) -> None:
        one, other = (profile(figures={"x": self.figure(1.0, unit=unit)}) for unit in ("s", "B"))
        (found,) = compare_profiles(one, other).figures
        assert (found.ratio, found.verdict) == (None, "within noise")


def test_what_differs_most_comes_first() -> None:
    sizes = {1.0: 1.0, 2.0: 1.0, 4.0: 1.0}
    times = {"disk_read": 1.1, "disk_write": 0.5, "send": 1.5}
    a = Profile(fingerprint=fingerprint(), series=tuple(by_size(sizes, operation=name) for name in times))
    b = Profile(
        fingerprint=fingerprint(),
        series=tuple(by_size({size: factor for size in sizes}, operation=name) for name, factor in times.items()),
    )
    assert [each.key.partition("/")[0] for each in compare_profiles(a, b).series] == ["disk_write", "send", "disk_read"]


def test_what_only_one_has_and_how_the_machines_differ() -> None:
    a = profile()
    b = profile(series=a.series[1:], figures={}, fingerprint=fingerprint(torch="2.12.0", cores=4))
    found = compare_profiles(a, b)
    assert found.only_in_a == [a.series[0].key, *a.figures]
    assert found.only_in_b == []
    assert found.fingerprint == [("torch", "2.13.0+cpu", "2.12.0"), ("cores", 2, 4)]
    assert compare_profiles(b, a).only_in_b == [a.series[0].key, *a.figures]


def test_the_tables_say_it_in_words() -> None:
    text = printed(diff_tables(compare_profiles(profile(), profile(factor=1.3)), a="a.json", b="b.json"))
    assert "6 of 21 series and figures differ by more than noise." in text
    (line,) = (line for line in text.splitlines() if "matmul/weight_gradient/bf16" in line)
    assert line.split() == [
        *("matmul/weight_gradient/bf16", "160", "GFLOP/s", "123", "GFLOP/s", "x", "1.30"),
        *("1.30", "to", "1.30", "±5.0%", "27", "slower"),
    ]


def test_nothing_in_common() -> None:
    found = compare_profiles(profile(series=(), figures={}), profile())
    assert verdict_sentence(found) == "They have no series and no figure in common."
    assert "Only in b.json: matmul/forward/fp32" in printed(diff_tables(found, a="a.json", b="b.json"))


def test_as_json() -> None:
    data = compare_profiles(profile(), profile(factor=1.3, fingerprint=fingerprint(cores=4))).to_json()
    assert data["beyond_noise"] == 6
    assert data["series"][0]["ratio"] == pytest.approx(1.3)
    assert data["fingerprint"] == [{"field": "cores", "a": 2, "b": 4}]
    assert data["figures"][0]["verdict"] == "within noise"
