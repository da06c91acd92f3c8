"""Pages about a plan and about a comparison: what they show, as data, and the HTML files that show it."""

from .report import Report, Surrounding, render_report, write_report
from .rivals import Rival

__all__ = ["Report", "Rival", "Surrounding", "render_report", "write_report"]
