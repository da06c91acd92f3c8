"""A validation as tables and a page."""

from .report import write_validation_report
from .tables import validation_tables

__all__ = ["validation_tables", "write_validation_report"]
