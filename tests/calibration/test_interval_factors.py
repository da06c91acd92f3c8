"""The interval of a new document's runs, worked out by hand, and how many left-out rows the intervals hold."""

import math
import tomllib

import pytest

from shardwright.calibration.interval_factors import Residual, intervals_toml, left_out_coverage, spread
from shardwright.costmodel import RunClass


def rows(document: str, *logs: float, run_class: RunClass = "dense") -> list[Residual]:
    return [Residual(document, run_class, math.exp(log)) for log in logs]


def test_the_spread_of_single_runs_is_that_between_documents() -> None:
    """Three documents at -0.1, 0 and 0.1: variance 0.01, and a third of it for the mean."""
    found = spread([*rows("a", -0.1), *rows("b", 0.0), *rows("c", 0.1)])
    assert found.mean == pytest.approx(0.0, abs=1e-12)
    assert found.documents == 3
    assert found.deviation == pytest.approx(math.sqrt(0.01 * (1 + 1 / 3)))


def test_runs_of_a_document_add_their_own_variance_and_it_leaves_that_of_the_means() -> None:
    """Two documents of two runs, 0.2 apart within each: within 0.02, means 0 and 0.2 of variance 0.02, half of within from it."""
    found = spread([*rows("a", -0.1, 0.1), *rows("b", 0.1, 0.3)])
    assert found.mean == pytest.approx(0.1)
    between = 0.02 - 0.02 / 2
    assert found.deviation == pytest.approx(math.sqrt(between + 0.02 + 0.02 / 2))


def test_a_large_document_counts_as_a_small_one() -> None:
    assert spread([*rows("a", *[0.1] * 50), *rows("b", 0.3)]).mean == pytest.approx(0.2)


@pytest.mark.parametrize(("documents", "quantile"), [(2, 3.0777), (3, 1.8856), (11, 1.3722)])
def test_few_documents_make_a_wide_interval(documents: int, quantile: float) -> None:
    """Student's t at 90% with 1, 2 and 10 degrees of freedom."""
    each = [rows(f"document {index}", 0.1 * (-1) ** index) for index in range(documents)]
    found = spread([row for some in each for row in some])
    low, high = found.factors(0.80)
    assert math.log(high) == pytest.approx(found.mean + quantile * found.deviation, rel=1e-4)
    assert math.log(low) == pytest.approx(found.mean - quantile * found.deviation, rel=1e-4)


def test_an_interval_holds_its_own_prediction() -> None:
    low, high = spread([*rows("a", 0.30), *rows("b", 0.31), *rows("c", 0.32)]).factors(0.80)
    assert low == 1.0
    assert high > math.exp(0.31)


def test_one_document_says_nothing_of_another() -> None:
    with pytest.raises(ValueError, match="two documents"):
        spread(rows("a", 0.1, 0.2))


def test_rows_of_a_document_are_held_by_the_others_of_their_class_alone() -> None:
    near = [*rows("a", 0.0), *rows("b", 0.01), *rows("c", -0.01)]
    far = rows("d", 1.0)
    assert left_out_coverage([*near, *far], 0.80) == 3 / 4  # d makes the others' intervals wide; they leave it out
    other = rows("d", 1.0, run_class="experts")
    assert left_out_coverage([*near, *other], 0.95) == 3 / 4  # alone in its class


def test_the_table_has_every_class_by_its_name() -> None:
    text = intervals_toml(
        [*rows("a", -0.1), *rows("b", 0.1), *rows("a", 0.2, run_class="experts"), *rows("b", 0.4, run_class="experts")],
        [*rows("a", -0.1), *rows("b", 0.1), *rows("c", 0.0)],
    )
    table = tomllib.loads(text)
    assert list(table) == ["dense", "experts", "memory"]
    # 90% of a t-distribution with two degrees of freedom lie below 1.886
    safe = pytest.approx(1 - math.exp(-1.886 * 0.1155), abs=5e-4)
    expected = {"mean": pytest.approx(0.0, abs=1e-9), "deviation": 0.115, "documents": 3, "safe_reserve": safe}
    assert table["memory"] == expected
    assert table["experts"]["documents"] == 2
    assert table["experts"]["at_95"][0] < table["experts"]["at_80"][0] < 1 < table["experts"]["at_80"][1]
