"""The cost model against the published runs: errors that a change must not make worse unseen."""

import pytest

from shardwright.validation.scores.validate import Validation, validate_table
from tests.validation.table.test_table import PUBLISHED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def validation() -> Validation:
    return validate_table(PUBLISHED)


def test_the_rows_that_can_be_predicted_are(validation: Validation) -> None:
    assert validation.summary.predicted >= 433
    refused = [reason for reason in validation.summary.skipped if reason.startswith("not valid for the cost model")]
    assert refused == []


def test_errors_stay_below_what_was_reached(validation: Validation) -> None:
    errors, null_model = validation.summary.errors, validation.summary.constant_efficiency
    assert errors is not None
    assert null_model is not None
    assert errors.median < 0.12
    assert errors.mean < 0.18
    assert errors.median < 0.7 * null_model.median


def test_the_intervals_cover_at_least_what_they_say(validation: Validation) -> None:
    """They hold rows of documents that the fit has not seen, so that they cover more of these, which it has."""
    coverage_80, coverage_95 = validation.summary.coverage_80, validation.summary.coverage_95
    assert coverage_80 is not None
    assert coverage_95 is not None
    assert 0.80 <= coverage_80 <= coverage_95
    assert coverage_95 >= 0.95


def test_peak_memory_stays_as_near_as_was_reached(validation: Validation) -> None:
    """85 rows: median 5.1%, 20% of them predicted too small by more than 5%."""
    memory = validation.summary.memory
    assert memory is not None
    assert validation.summary.memory_under_predicted is not None
    assert memory.count >= 85
    assert memory.median <= 0.055
    assert validation.summary.memory_under_predicted <= 0.21
