"""A sweep is the comparison at each setting; its crossover points, its rows and its page say the same."""

import csv
import io
import json
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.base.numbers import read_count
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.comparison.side_by_side import compare
from shardwright.comparison.sweeps import read_sweep, settings_of, sweep
from shardwright.reports.charts import Lines
from shardwright.reports.pages.comparison import ComparisonPage, charts_of, render_comparison, write_comparison
from shardwright.reports.plan.comparison import ComparedPlan, Comparison
from shardwright.reports.plan.sweep import CSV_COLUMNS, Sweep, SweepPoint, crossovers, sweep_csv
from shardwright.specs.training import TrainingSpec
from tests.reports.pages.test_report import CLUSTER, MODEL, TRAINING, data_of, plan_of
from tests.validation.fake_costs import estimate_plan

LLAMA, JOB = load_model("llama-3.2-1b"), TrainingSpec(seq_len=2048, global_batch=64)
H100 = load_cluster("h100-sxm:8")
WAYS = ("ddp", "zero3")
MINE = estimate_plan(MODEL, CLUSTER, TRAINING, plan_of())


@pytest.fixture(scope="module")
def by_devices() -> Sweep:
    settings = settings_of("gpus", (8, 16, 32), H100, JOB, load_cluster)
    return sweep(LLAMA, "gpus", settings, strategies=WAYS)


def test_every_point_is_the_comparison_there(by_devices: Sweep) -> None:
    for point in by_devices.points:
        assert point.comparison == compare(LLAMA, load_cluster(f"h100-sxm:{point.value}"), JOB, strategies=WAYS)
    assert by_devices.ways == WAYS
    assert Sweep.parse(by_devices.to_json(), source="test") == by_devices


@pytest.mark.parametrize(
    ("name", "values", "devices", "batches", "lengths"),
    [
        ("gpus", (16, 32), [16, 32], [64, 64], [2048, 2048]),
        ("gpus-weak", (16, 32), [16, 32], [128, 256], [2048, 2048]),
        ("global-batch", (16, 32), [8, 8], [16, 32], [2048, 2048]),
        ("seq-len", (1024, 4096), [8, 8], [64, 64], [1024, 4096]),
        ("device", ("a100-sxm-80gb", "h100-sxm"), [8, 8], [64, 64], [2048, 2048]),
    ],
)
def test_settings_vary_one_thing(
    name: str, values: tuple[int | str, ...], devices: list[int], batches: list[int], lengths: list[int]
) -> None:
    found = settings_of(name, values, H100, JOB, load_cluster)  # type: ignore[arg-type] # a name of the list above
    assert [one.value for one in found] == list(values)
    assert [one.cluster.devices for one in found] == devices
    assert [one.training.global_batch for one in found] == batches
    assert [one.training.seq_len for one in found] == lengths
    if name == "device":
        assert [one.cluster.node.device.name for one in found] == list(values)


def test_a_cluster_of_a_file_has_other_numbers_of_its_own_nodes() -> None:
    mine = H100.model_copy(update={"name": "mine", "groups": (load_cluster("h100-sxm:16").groups[0],)})
    (one,) = settings_of("gpus", (32,), mine, JOB, load_cluster)
    assert (one.cluster.devices, one.cluster.name, one.cluster.node.nodes) == (32, "mine with 32 devices", 4)
    with pytest.raises(SpecError, match="12 devices are no whole number of nodes of mine, which have 8"):
        settings_of("gpus", (12,), mine, JOB, load_cluster)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu=8,16", "unknown 'gpu'; give one of gpus, .*Did you mean 'gpus'"),
        ("gpus=8", "needs two values or more, such as gpus=64,128,256"),
        ("gpus", "needs two values"),
        ("gpus=8,8", "8 is given twice"),
        ("gpus=0,8", "0 is below 1"),
        ("seq-len=8k,eight", "'eight' is not a whole number"),
    ],
)
def test_a_bad_sweep_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_sweep(text, read_count)


def test_a_sweep_is_read_as_people_write_it() -> None:
    assert read_sweep("seq-len=4k, 8k,1_000", read_count) == ("seq-len", (4096, 8192, 1000))
    assert read_sweep("device=h100-sxm,a100-sxm-80gb", read_count) == ("device", ("h100-sxm", "a100-sxm-80gb"))


def test_a_batch_that_does_not_grow_to_a_whole_number_is_refused() -> None:
    odd = JOB.model_copy(update={"global_batch": 3})
    with pytest.raises(SpecError, match="a batch of 3 on 16 devices grows to no whole number on 8"):
        settings_of("gpus-weak", (8,), load_cluster("h100-sxm:16"), odd, load_cluster)


def made(name: str, values: dict[int | str, dict[str, float | None]]) -> Sweep:
    """A sweep of ways with these steps; None for what does not fit."""
    points = []
    for value, seconds in values.items():
        rows = tuple(
            ComparedPlan(
                name=way, plan=plan_of(), estimate=MINE.model_copy(update={"step": MINE.step.model_copy(update={
                    cause: (step or 9.0) if cause == "compute" else 0.0 for cause, _ in MINE.step})}),
                reason=None if step else "too large", lacking_bytes=0.0 if step else 2.0**30,
            )
            for way, step in seconds.items()
        )  # fmt: skip
        comparison = Comparison(model_name="m", cluster_name="c", rows=rows)
        points.append(SweepPoint(value=value, devices=8, tokens_per_step=1, comparison=comparison))
    return Sweep(name=name, points=tuple(points))


def test_powers_cross_where_their_logarithms_do() -> None:
    """a takes x and b takes 4096 / x: equal at 64, the middle of 32 and 128 in logarithms."""
    found = made("gpus", {32: {"a": 32.0, "b": 128.0}, 128: {"a": 128.0, "b": 32.0}})
    assert crossovers(found) == [
        "a is fastest at 32 devices.",
        "b is fastest from 128 devices on; it overtakes a at about 64.",
    ]


def test_a_way_that_is_as_fast_overtakes_nothing() -> None:
    found = made("gpus", {32: {"b": 128.0, "a": 32.0}, 128: {"b": 32.0, "a": 32.01}, 256: {"b": 31.0, "a": 32.0}})
    first, second = crossovers(found)
    assert first == "a is fastest at 32 devices."
    assert second.startswith("b is fastest from 256 devices on")


def test_what_begins_or_ceases_to_fit_says_so() -> None:
    begins = made("seq-len", {1024: {"a": 5.0, "b": None}, 4096: {"a": 9.0, "b": 7.0}})
    assert crossovers(begins)[1] == "b is fastest from 4,096 tokens of a sequence on; below, it does not fit."
    ceases = made("seq-len", {4096: {"a": None, "b": 7.0}, 1024: {"a": 5.0, "b": 6.0}})
    assert crossovers(ceases)[1] == "b is fastest from 4,096 tokens of a sequence on, where a does not fit."
    nothing = made("seq-len", {1024: {"a": 5.0}, 4096: {"a": None}})
    assert crossovers(nothing)[1] == "Nothing fits at 4,096 tokens of a sequence."


def test_devices_have_no_crossing_between_them() -> None:
    found = made("device", {"slow": {"a": 5.0, "b": 6.0}, "fast": {"a": 3.0, "b": 2.0}})
    assert crossovers(found)[1] == "b is fastest on fast; a takes 50.0% longer there."
    assert list(charts_of(found)) == ["devices"]


def test_the_rows_for_a_spreadsheet_are_those_of_the_comparisons(by_devices: Sweep) -> None:
    rows = list(csv.DictReader(io.StringIO(sweep_csv(by_devices))))
    assert tuple(rows[0]) == CSV_COLUMNS
    compared = [(point, row) for point in by_devices.points for row in point.comparison.rows]
    assert len(rows) == len(compared) == 6
    for line, (point, row) in zip(rows, compared, strict=True):
        assert (int(line["value"]), line["plan"]) == (point.value, row.name)
        assert row.estimate is not None
        assert float(line["step_seconds"]) == row.step_seconds
        assert float(line["low_80"]) == row.estimate.step_seconds_intervals[0].low
        assert float(line["lacking_bytes"]) == row.lacking_bytes
    missing = next(csv.DictReader(io.StringIO(sweep_csv(made("gpus", {8: {"a": None}, 16: {"a": 1.0}})))))
    assert (missing["step_seconds"], float(missing["lacking_bytes"]), missing["reason"]) == ("", 2.0**30, "too large")


def test_the_page_and_the_files_beside_it_have_the_same_figures(by_devices: Sweep, tmp_path: Path) -> None:
    page = ComparisonPage(model=LLAMA, cluster=H100, training=JOB, sweep=by_devices)
    table, plain = write_comparison(tmp_path / "page.html", page)
    assert json.loads(plain.read_text(encoding="utf-8")) == by_devices.to_json()
    assert table.read_text(encoding="utf-8") == sweep_csv(by_devices)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.index("Which is fastest where") < text.index("Each setting") < text.index("<h2>Job")
    (curve,) = [one for one in data_of(text)["charts"]["throughput"]["curves"] if one["name"] == "zero3"]
    wanted = [by_devices.row("zero3", point) for point in by_devices.points]
    assert [point[1] for point in curve["points"]] == [
        row.estimate.tokens_per_s for row in wanted if row and row.estimate
    ]


def test_a_way_that_does_not_fit_is_a_gap_in_its_curve_and_a_row_of_misses() -> None:
    found = made("gpus", {8: {"a": None, "b": 2.0}, 16: {"a": 1.0, "b": 2.0}})
    throughput = charts_of(found)["throughput"]
    assert isinstance(throughput, Lines)
    (curve,) = (curve for curve in throughput.curves if curve.name == "a")
    assert [point[1] is None for point in curve.points] == [True, False]
    text = render_comparison(ComparisonPage(model=MODEL, cluster=CLUSTER, training=TRAINING, sweep=found))
    assert "What does not fit, and by how much" in text
    assert "lacks 1.00 GiB" in text


def test_a_single_comparison_is_a_page_of_bars() -> None:
    one = made("gpus", {8: {"a": 3.0, "b": None}})
    text = render_comparison(ComparisonPage(model=MODEL, cluster=CLUSTER, training=TRAINING, sweep=one))
    assert list(data_of(text)["charts"]) == ["steps"]
    assert "Side by side" in text
    assert "Which is fastest where" not in text
