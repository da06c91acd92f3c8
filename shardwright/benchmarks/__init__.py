"""Compares: strategies with each other, predictions with published and own measurements; and the reports.

The function `compare` stays in its module of the same name, which it would hide here.
"""

from .compare import ComparedPlan, Comparison
from .outcome import ValidationRow
from .report import Report, render_report, write_report
from .strategies import STRATEGIES
from .table import TableRow, read_table
from .validate import Validation, validate_table

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
