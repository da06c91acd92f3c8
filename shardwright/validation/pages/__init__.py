"""A validation as tables, plots and a page."""

from .plots import write_validation_plots
from .report import write_validation_report
from .tables import validation_tables

__all__ = ["validation_tables", "write_validation_plots", "write_validation_report"]
