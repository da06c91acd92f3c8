"""Pages about a plan and about a comparison: what they show, as data, and the HTML files that show it."""

from .comparison import ComparisonPage, render_comparison, write_comparison
from .report import Report, Surrounding, render_report, write_report
from .rivals import Rival

__all__ = [
    "ComparisonPage",
    "Report",
    "Rival",
    "Surrounding",
    "render_comparison",
    "render_report",
    "write_comparison",
    "write_report",
]
