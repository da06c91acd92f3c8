"""A profile in words: what tables, page and JSON show of it."""

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from shardwright.catalog import devices as catalog
from shardwright.reports.profile.diff import compare_profiles
from shardwright.reports.profile.lines import figure_words, fingerprint_lines, layer_lines, series_lines
from shardwright.reports.profile.report import profile_json, render_profile_report, write_profile_report
from shardwright.reports.profile.tables import profile_tables
from shardwright.specs.profile import Figure, Profile, Series
from tests.reports.made_up_profile import PEAK_FLOPS_PER_S, fingerprint, matmul, matmul_seconds, point, profile

H100 = {
    "kind": "gpu",
    "device": "NVIDIA H100 80GB HBM3",
    "device_memory_bytes": 85.0e9,
    "cuda": "13.0",
    "driver": "580.1",
}


def printed(renderable: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(renderable)
    return text.getvalue()


def test_the_best_rate_with_its_shape_and_noise() -> None:
    line = next(line for line in series_lines(profile(spread=0.03)) if line.key == "matmul/forward/fp32")
    best = 2 * 2048 * 1024 * 2048 / matmul_seconds(2048, 1024, 2048, "fp32")
    assert line.best == pytest.approx(best)
    assert line.best is not None
    assert line.best < PEAK_FLOPS_PER_S["fp32"]
    assert (line.best_at, line.points, line.best_words) == ("2,048 x 1,024 x 2,048", 27, "94.1 GFLOP/s")
    assert line.sizes == "m 128..2,048, k 64..1,024, n 128..2,048"
    assert line.interval == pytest.approx(0.03)
    assert (line.residual_median, line.residual_p90, line.left_out_median) == (0.021, 0.083, 0.034)


def casts(seconds: float = 1e-3) -> Series:
    """Of 1,024 rows of 1,024 numbers in 16 bits to fp8: read twice and written, 5 bytes each."""
    points = (point((1024, 1024), seconds), point((512, 1024), seconds))
    return Series(operation="cast", variant="fp8", format="bf16", axes=("rows", "width"), points=points)


def test_a_cast_has_its_rate_and_the_seconds_of_a_million_elements() -> None:
    with_casts = profile(series=(*profile().series, casts()))
    line = next(line for line in series_lines(with_casts) if line.key == "cast/fp8/bf16")
    assert line.best == pytest.approx(5 * 2**20 / 1e-3)
    assert line.best_at == "1,024 x 1,024"
    assert line.seconds_per_element == pytest.approx(1e-3 / 2**20)
    for shown in (printed(profile_tables(with_casts, title="p.json")), render_profile_report(with_casts, name="p")):
        for words in ("Casts to 8 and 4 bits", "5.24 GB/s", "a million elements", "954 µs"):
            assert words in shown
    assert "a million elements" not in printed(profile_tables(profile(), title="p.json"))
    assert all(line.seconds_per_element is None for line in series_lines(profile()))


def test_casts_of_two_profiles_are_compared() -> None:
    one, other = (profile(series=(casts(seconds),)) for seconds in (1e-3, 2e-3))
    (found,) = compare_profiles(one, other).series
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(2)
    assert found.rate_a is not None
    assert found.rate_b == pytest.approx(found.rate_a / 2)


def test_sizes_in_bytes_and_axes_that_do_not_vary() -> None:
    lines = {line.key: line for line in series_lines(profile())}
    assert lines["disk_read/direct"].sizes == "4.00 KiB..16.0 MiB"
    assert lines["disk_read/direct"].best_at == "16.0 MiB"
    assert lines["attention/forward/fp32"].best_at == "length 2,048, head size 128"
    assert lines["all_reduce"].best_at == "16.0 MiB, nodes 1, sharing 1"


class TestOfDataSheet:
    def lines(self, **mark: object) -> dict[str, float | None]:
        measured = profile(fingerprint=fingerprint(**(H100 | mark)))
        return {line.key: line.of_data_sheet for line in series_lines(measured)}

    def test_arithmetic_over_the_formats_peak_and_traffic_over_the_bandwidth(self) -> None:
        sheet = catalog.device("h100-sxm")
        lines = {line.key: line for line in series_lines(profile(fingerprint=fingerprint(**H100)))}
        for key, peak in (
            ("matmul/forward/bf16", sheet.peak_flops_per_s["bf16"]),
            ("attention/forward/fp32", sheet.peak_flops_per_s["fp32"]),
            ("addition/forward/fp32", sheet.memory_bytes_per_s),
            ("adamw/fused/fp32", sheet.memory_bytes_per_s),
        ):
            best, share = lines[key].best, lines[key].of_data_sheet
            assert best is not None
            assert share == pytest.approx(best / peak), key

    def test_what_does_not_work_in_device_memory_has_none(self) -> None:
        lines = self.lines()
        assert lines["disk_read/direct"] is lines["all_reduce"] is lines["host_copy/to_device-pageable"] is None

    @pytest.mark.parametrize("mark", [{"device": "Voodoo 2"}, {"kind": "cpu"}])
    def test_a_device_that_the_catalog_lacks_has_none(self, mark: dict[str, object]) -> None:
        assert set(self.lines(**mark).values()) == {None}

    def test_the_column_is_there_only_where_it_says_something(self) -> None:
        assert "of data sheet" not in printed(profile_tables(profile(), title="p.json"))
        assert "of data sheet" in printed(profile_tables(profile(fingerprint=fingerprint(**H100)), title="p.json"))


def test_the_fingerprint_in_words() -> None:
    lines = dict(fingerprint_lines(profile(fingerprint=fingerprint(**H100, ranks=16, nodes=2, clock_hz=1.98e9))))
    assert lines["device"] == "NVIDIA H100 80GB HBM3 (h100-sxm of the catalog), 79.2 GiB for each rank"
    assert lines["ranks"] == "16 on 2 nodes, 2 host threads each"
    assert lines["software"] == "torch 2.13.0+cpu, Python 3.11.9, CUDA 13.0, driver 580.1"
    assert lines["clock"] == "1.98 GHz while it computed"
    assert lines["measured"] == "2026-01-02T03:04:05+00:00: 233 points and 3 figures in 61.0 s"


def test_a_profile_that_was_broken_off_says_so() -> None:
    assert dict(fingerprint_lines(profile(complete=False)))["measured"].endswith("; incomplete")


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure(value=3e-6, unit="s", meaning="", low=2.9e-6, high=3.1e-6), "3.00 µs (2.90 µs to 3.10 µs)"),
        (Figure(value=2**20, unit="bytes", meaning=""), "1.00 MiB"),
        (Figure(value=0.04, unit="share", meaning=""), "4.0%"),
        (Figure(value=1.2, unit="ratio", meaning=""), "1.20"),
        (Figure(value=17.5e9, unit="B/s", meaning=""), "17.5 GB/s"),
    ],
)
def test_figures_have_units_that_suit_them(figure: Figure, words: str) -> None:
    assert figure_words(figure) == words


def test_a_layers_difference_is_predicted_over_measured() -> None:
    """Ten milliseconds, predicted to be eleven: 10% too slow."""
    assert [(line.what, round(line.difference, 3)) for line in layer_lines(profile())] == [
        ("forward", 0.1),
        ("backward", -0.05),
        ("activations kept", -0.05),
    ]


def test_the_tables_hold_everything() -> None:
    text = printed(profile_tables(profile(), title="p.json"))
    for series in profile().series:
        assert series.key in text
    for words in ("p.json", "Remark: other programs used the CPU", "dispatch_seconds", "tiny, 2 x 512 tokens, fp32"):
        assert words in text
    assert "start_seconds 2e-06, flops_per_s 1e+11" in text
    assert "+10.0%" in text


def test_an_empty_profile_is_its_fingerprint() -> None:
    text = printed(profile_tables(Profile(fingerprint=fingerprint()), title="p.json"))
    assert "Cray-1" in text
    assert "series" not in text


def test_a_name_is_no_markup() -> None:
    odd = Profile(fingerprint=fingerprint(host="[bold]museum[/bold]"), remarks=("[red]hot[/red]",))
    text = printed(profile_tables(odd, title="[p].json"))
    assert "[bold]museum[/bold]" in text
    assert "[red]hot[/red]" in text
    assert "[p].json" in text


def test_operations_of_the_future_are_shown_too() -> None:
    series = Series(operation="teleport", axes=("size_bytes",), points=(point((8.0,), 1.0),))
    text = printed(profile_tables(Profile(fingerprint=fingerprint(), series=(series,)), title="p.json"))
    assert "Other operations" in text
    assert "teleport" in text


class TestReport:
    def test_it_holds_tables_charts_and_remarks(self, tmp_path: Path) -> None:
        write_profile_report(tmp_path / "r.html", profile(), name="<p>.json")
        page = (tmp_path / "r.html").read_text()
        for words in (
            "&lt;p&gt;.json",
            "Profile of Cray-1",
            "other programs used the CPU",
            "94.1 GFLOP/s",
            "+10.0%",
            "2.1%",
        ):
            assert words in page
        for chart in ("Roofline", "Matmul by shape, bf16", "Attention by length, fp32", "Fits of matmuls"):
            assert f'aria-label="{chart}' in page
        assert "of data sheet" not in page

    def test_one_of_a_known_card_says_how_near_the_data_sheet(self) -> None:
        page = render_profile_report(profile(fingerprint=fingerprint(**H100)), name="p.json")
        assert "of data sheet" in page

    def test_an_empty_one_has_no_charts(self) -> None:
        page = render_profile_report(Profile(fingerprint=fingerprint()), name="p.json")
        assert "<svg" not in page

    def test_as_json(self) -> None:
        data = profile_json(profile(series=(matmul("forward", "fp32"),)))
        (line,) = data["series"]
        assert line["key"] == "matmul/forward/fp32"
        assert line["parameters"]["flops_per_s"] == 100e9
        assert data["fingerprint"]["device"] == "Cray-1"
        assert (data["points"], data["complete"], data["seconds"]) == (27, True, 61.0)
        assert data["figures"]["dispatch_seconds"]["unit"] == "s"
        assert data["layers"][0]["model"] == "tiny"
