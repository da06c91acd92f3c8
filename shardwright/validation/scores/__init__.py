"""Each row predicted, and how good the predictions are: errors, intervals, the order of plans, the worst rows taken apart."""

from .accuracy import ErrorSummary, Trial, rank_agreement, summarise_errors
from .explained_row import ExplainedRow
from .outcome import Outcome, TimedRun
from .summary import UNDER_PREDICTED, RowsSummary, ValidationSummary, memory_error, summarise_rows
from .validate import Validation, predict_rows, validate_table

__all__ = [
    "UNDER_PREDICTED",
    "ErrorSummary",
    "ExplainedRow",
    "Outcome",
    "RowsSummary",
    "TimedRun",
    "Trial",
    "Validation",
    "ValidationSummary",
    "memory_error",
    "predict_rows",
    "rank_agreement",
    "summarise_errors",
    "summarise_rows",
    "validate_table",
]
