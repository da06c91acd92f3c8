"""Rows taken apart."""

import pytest

from shardwright.validation.scores.explained_row import explain_row, worst_rows
from shardwright.validation.scores.outcome import TimedRun
from shardwright.validation.scores.validate import predict_rows
from tests.validation.fake_costs import estimate_plan, standard_node
from tests.validation.made_up_rows import row


def _timed(*changes: dict[str, object]) -> list[TimedRun]:
    table = tuple(row(**{"id": str(number)} | change) for number, change in enumerate(changes))
    outcomes = predict_rows(table, estimate=estimate_plan, standard_node=standard_node)
    return [timed for outcome in outcomes if (timed := outcome.timed) is not None]


def test_the_parts_add_up_and_come_largest_first() -> None:
    (timed,) = _timed({"recompute": "full", "tp": 2, "dp": 32, "sp": False, "peak_mem_gb": 50.0})
    explained = explain_row(timed)
    assert [part.name for part in explained.step] == ["compute", "recompute", "tensor parallel"]
    assert sum(part.seconds for part in explained.step) == pytest.approx(explained.predicted_seconds)
    assert sum(part.share for part in explained.step) == pytest.approx(1)
    assert sum(size for _, size in explained.memory) == pytest.approx(explained.memory_predicted_bytes)
    assert explained.memory_measured_bytes == 50e9
    assert "network of the standard node" in explained.assumptions


def test_the_factor_that_one_part_would_need() -> None:
    (timed,) = _timed({"recompute": "full", "micro_batch": 1, "metric_name": "s_per_iter", "metric_value": 1000.0})
    explained = explain_row(timed)
    for part in explained.step:
        assert part.factor_needed is not None
        rest = explained.predicted_seconds - part.seconds
        assert rest + part.factor_needed * part.seconds == pytest.approx(1000.0)


def test_no_factor_where_the_rest_alone_is_too_long() -> None:
    (timed,) = _timed({"recompute": "full", "metric_name": "s_per_iter", "metric_value": 1e-3})
    explained = explain_row(timed)
    assert {part.factor_needed for part in explained.step} == {None}
    assert explained.measured_mfu > 100  # faster than any device: the reader is told


def test_the_worst_come_first_and_skipped_rows_not_at_all() -> None:
    seconds = {"metric_name": "s_per_iter", "metric_unit": "s/iter"}
    timed = _timed(
        seconds | {"metric_value": 3.6},
        {"experts": 8},
        seconds | {"metric_value": 40.0},
        seconds | {"metric_value": 9.0},
    )
    assert [worst.id for worst in worst_rows(timed, 2)] == ["2", "3"]
    assert len(worst_rows(timed)) == 3
