"""Compares: strategies with each other, predictions with published and own measurements; and the reports."""

from .compare import ComparedPlan, Comparison, compare
from .report import Report, render_report, write_report
from .strategies import STRATEGIES
from .table import TableRow, read_table
from .validate import Validation, ValidationRow, validate_table

__all__ = [
    "STRATEGIES",
    "ComparedPlan",
    "Comparison",
    "Report",
    "TableRow",
    "Validation",
    "ValidationRow",
    "compare",
    "read_table",
    "render_report",
    "validate_table",
    "write_report",
]
