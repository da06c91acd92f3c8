"""Validation: every row comes back, with its own unit, sign and reason."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from shardwright.base.errors import SpecError
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.results.estimate import Estimate
from shardwright.specs.training import TrainingSpec
from shardwright.validation.pages.tables import validation_tables
from shardwright.validation.scores.validate import Validation, validate_table
from tests.validation.fake_costs import estimate_plan, standard_node
from tests.validation.made_up_rows import LLAMA_ROW, write_csv
from tests.validation.table.test_table import PUBLISHED

# The fake cost model on the Llama row: 6 N T FLOPs at half of 64 x 300 TFLOP/s, and 10% for the second sequence.
PREDICTED_SECONDS = 6 * 13_015_864_320 * 128 * 4096 / (64 * 300e12 * 0.5) * 1.1
ROW_KEYS = {
    "id",
    "unit",
    "measured",
    "predicted",
    "relative_error",
    "low_80",
    "high_80",
    "memory_measured_bytes",
    "memory_predicted_bytes",
    "fits_probability",
    "other_readings",
    "skipped",
}


def _validate(tmp_path: Path, *rows: dict[str, object]) -> Validation:
    path = write_csv(tmp_path / "t.csv", rows)
    return validate_table(path, estimate=estimate_plan, standard_node=standard_node)


def test_a_rate_is_predicted_in_its_own_unit(tmp_path: Path) -> None:
    (row,) = _validate(tmp_path, LLAMA_ROW | {"peak_mem_gb": 50.0}).rows
    assert row.unit == "tokens/s/GPU"
    assert row.measured == 2162.0
    assert row.predicted == pytest.approx(8192 / PREDICTED_SECONDS)
    assert row.relative_error == pytest.approx(PREDICTED_SECONDS / (8192 / 2162) - 1)
    assert row.low_80 == pytest.approx(8192 / (1.25 * PREDICTED_SECONDS))
    assert row.high_80 == pytest.approx(8192 / (0.8 * PREDICTED_SECONDS))
    assert row.memory_measured_bytes == 50e9
    assert row.memory_predicted_bytes == pytest.approx(16 * 13_015_864_320 / 64 + 2e9)
    assert row.skipped is None


def test_the_error_is_positive_where_predicted_too_slow_whatever_the_unit(tmp_path: Path) -> None:
    slower = 2 * PREDICTED_SECONDS
    result = _validate(
        tmp_path,
        LLAMA_ROW | {"id": "rate", "metric_value": 8192 / (PREDICTED_SECONDS / 2)},
        LLAMA_ROW | {"id": "time", "metric_name": "s_per_iter", "metric_unit": "s/iter", "metric_value": slower},
    )
    assert [row.relative_error for row in result.rows] == pytest.approx([1.0, -0.5])
    assert result.rows[1].predicted == pytest.approx(PREDICTED_SECONDS)
    assert result.rows[1].low_80 == pytest.approx(0.8 * PREDICTED_SECONDS)


def test_no_row_is_dropped(tmp_path: Path) -> None:
    result = _validate(
        tmp_path,
        LLAMA_ROW,
        LLAMA_ROW | {"id": "moe", "experts": 8},
        LLAMA_ROW | {"id": "no-metric", "metric_value": None},
        LLAMA_ROW | {"id": "drops", "reason": "token-drop MoE run"},
        LLAMA_ROW | {"id": "int3", "precision": "int3"},
    )
    assert [row.id for row in result.rows] == ["llama-1", "moe", "no-metric", "drops", "int3"]
    assert [row.skipped is None for row in result.rows] == [True, False, False, False, False]
    assert all(row.predicted is None and row.relative_error is None for row in result.rows[1:])
    summary = result.summary
    assert (summary.count, summary.predicted, sum(summary.skipped.values())) == (5, 1, 4)
    assert summary.skipped["token-drop MoE run"] == 1
    assert summary.skipped["metric_value unknown"] == 1


def test_a_row_of_memory_alone_has_no_time_and_still_a_memory_error(tmp_path: Path) -> None:
    memory_gb = (16 * 13_015_864_320 / 64 + 2e9) / 1e9
    result = _validate(
        tmp_path,
        LLAMA_ROW
        | {"metric_name": "peak_mem_gb", "metric_unit": "GB", "metric_value": memory_gb, "peak_mem_gb": memory_gb / 2},
    )
    assert result.rows[0].skipped == "memory only: the row has no step time"
    assert result.summary.errors is None
    assert result.summary.memory is not None
    assert result.summary.memory.mean_signed == pytest.approx(1.0)


def test_an_unknown_choice_is_read_once_and_every_reading_is_reported(tmp_path: Path) -> None:
    asked: list[Plan] = []

    def estimate(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        asked.append(plan)
        return estimate_plan(model, cluster, training, plan)

    unknown = LLAMA_ROW | {"recompute": "unknown"}
    path = write_csv(tmp_path / "t.csv", [unknown, unknown | {"id": "the same run again"}])
    result = validate_table(path, estimate=estimate, standard_node=standard_node)
    assert [found.predicted for found in result.rows] == pytest.approx([8192 / PREDICTED_SECONDS] * 2)
    assert [found.other_readings[0].choice for found in result.rows] == ["recompute: selective"] * 2
    slower = 8192 / PREDICTED_SECONDS * 1.1 / (1.1 + 0.1 / 3)  # a tenth of the forward again
    assert result.rows[0].other_readings[0].predicted == pytest.approx(slower)
    assert len(asked) == 2  # none fits, and selective is its nearest other
    assert result.summary.assumed == {"recompute: none": 2, "network of the standard node": 2}


def test_a_run_predicted_not_to_fit_is_still_predicted_and_counted(tmp_path: Path) -> None:
    result = _validate(tmp_path, LLAMA_ROW | {"zero_or_fsdp": "0"})
    assert result.summary.too_large == ("llama-1",)
    assert result.rows[0].relative_error is not None


def test_a_row_that_the_cost_model_refuses_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW | {"id": "a"}, LLAMA_ROW | {"id": "b", "tp": 2, "dp": 32}])

    def refuse(*_: object) -> object:
        raise SpecError("tp 3 does not divide the 40 attention heads")

    result = validate_table(path, estimate=refuse, standard_node=standard_node)  # type: ignore[arg-type] # never returns
    reason = "not valid for the cost model: tp N does not divide the N attention heads"
    assert [row.skipped for row in result.rows] == [reason, reason]
    assert result.summary.skipped == {reason: 2}


def test_coverage_counts_measured_times_inside_the_intervals(tmp_path: Path) -> None:
    times = {"a": 1.0, "b": 1.3, "c": 1.9, "d": 5.0}
    rows = [
        LLAMA_ROW | {"id": name, "metric_name": "s_per_iter", "metric_value": factor * PREDICTED_SECONDS}
        for name, factor in times.items()
    ]
    summary = _validate(tmp_path, *rows).summary
    assert (summary.coverage_80, summary.coverage_95) == (0.25, 0.75)


def test_groups_and_ranks(tmp_path: Path) -> None:
    timed = LLAMA_ROW | {"metric_name": "s_per_iter", "metric_unit": "s/iter"}
    summary = _validate(
        tmp_path,
        timed | {"id": "a", "micro_batch": 1, "metric_value": 3.0},
        timed | {"id": "b", "micro_batch": 2, "metric_value": 4.0},
        timed
        | {"id": "c", "micro_batch": 1, "global_batch": 256, "metric_value": 1.0, "source": "arXiv 2104.04473 T1"},
    ).summary
    assert summary.ranks is not None
    assert (summary.ranks.groups, summary.ranks.pairs, summary.ranks.kendall_tau) == (1, 1, 1.0)
    assert {name: errors.count for name, errors in summary.by_source.items()} == {
        "someone/bench README.md": 2,
        "arXiv 2104.04473 T1": 1,
    }


def test_progress_is_told_of_every_row(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [LLAMA_ROW, LLAMA_ROW | {"id": "b"}])
    calls: list[tuple[int, int]] = []
    validate_table(
        path,
        estimate=estimate_plan,
        standard_node=standard_node,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_json_has_exactly_the_published_keys(tmp_path: Path) -> None:
    data = _validate(tmp_path, LLAMA_ROW, LLAMA_ROW | {"id": "moe", "experts": 8}).to_json()
    assert set(data) == {"rows", "summary"}
    assert all(set(row) == ROW_KEYS for row in data["rows"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_published_table_is_read_to_its_end() -> None:
    result = validate_table(PUBLISHED, estimate=estimate_plan, standard_node=standard_node)
    summary = result.summary
    assert len(result.rows) == summary.count == 576
    assert summary.predicted + sum(summary.skipped.values()) == 576
    assert all((found.skipped is None) == (found.relative_error is not None) for found in result.rows)
    for groups in (summary.by_gpu, summary.by_source, summary.by_framework, summary.by_model_kind, summary.by_metric):
        assert sum(errors.count for errors in groups.values()) == summary.predicted
    assert summary.core is not None
    assert summary.core.count == 441


def test_the_core_leaves_out_what_has_no_target(tmp_path: Path) -> None:
    slow = {"metric_name": "s_per_iter", "metric_unit": "s/iter", "metric_value": 100 * PREDICTED_SECONDS}
    summary = _validate(tmp_path, LLAMA_ROW, LLAMA_ROW | slow | {"id": "n", "framework": "nanotron v0.5"}).summary
    assert summary.errors is not None
    assert summary.errors.worst == pytest.approx(0.99)
    assert summary.core is not None
    assert summary.core.errors is not None
    assert (summary.core.predicted, summary.core.errors.count) == (1, 1)
    assert summary.core.errors.worst < 0.9


def test_memory_predicted_more_than_a_twentieth_too_small_is_counted(tmp_path: Path) -> None:
    predicted_gb = (16 * 13_015_864_320 / 64 + 2e9) / 1e9
    measured = {"exact": 1.0, "four percent": 1.04, "six percent": 1.07, "half": 2.0}
    rows = [LLAMA_ROW | {"id": name, "peak_mem_gb": factor * predicted_gb} for name, factor in measured.items()]
    summary = _validate(tmp_path, *rows).summary
    assert summary.memory_under_predicted == 0.5
    assert summary.memory_by_source["someone/bench README.md"].count == 4


def test_the_same_plan_under_two_stacks_is_two_ways_to_run(tmp_path: Path) -> None:
    timed = LLAMA_ROW | {"metric_name": "s_per_iter", "metric_unit": "s/iter", "metric_value": 3.0}
    summary = _validate(tmp_path, timed, timed | {"id": "b", "framework": "llm-foundry", "metric_value": 6.0}).summary
    assert summary.ranks is not None
    assert (summary.ranks.groups, summary.ranks.pairs) == (1, 1)
    (group,) = summary.rank_groups
    assert group.plans == 2
    assert group.regret == pytest.approx(0.5)  # predicted equal, so the mean of both counts
    assert "Llama-2-13B, 64 x A100-SXM-80GB, bf16, batch 128 x 4096 tokens" in group.name


def test_tables_show_errors_reasons_and_worst_rows(tmp_path: Path) -> None:
    result = _validate(tmp_path, LLAMA_ROW, LLAMA_ROW | {"id": "[red]moe", "experts": 8})
    console = Console(width=140, record=True, file=(tmp_path / "out").open("w"))
    console.print(validation_tables(result))
    text = console.export_text()
    assert "1 of 2 rows predicted, 1 skipped" in text
    assert "experts of a token" in text
    assert "llama-1" in text
    error = result.rows[0].relative_error
    assert error is not None
    assert f"{100 * error:+.1f}%" in text
