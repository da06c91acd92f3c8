"""Compares: strategies with each other, predictions with published and own measurements; and the reports.

The function `compare` stays in its module of the same name, which it would hide here.
"""

from shardwright.compare.side_by_side import ComparedPlan, Comparison
from shardwright.compare.strategies import STRATEGIES
from shardwright.reports.plan.report import Report, render_report, write_report
from shardwright.validation.rows.table import TableRow, read_table
from shardwright.validation.scores.outcome import ValidationRow
from shardwright.validation.scores.validate import Validation, validate_table

__all__ = [
    "STRATEGIES",
    "ComparedPlan",
    "Comparison",
    "Report",
    "TableRow",
    "Validation",
    "ValidationRow",
    "read_table",
    "render_report",
    "validate_table",
    "write_report",
]
