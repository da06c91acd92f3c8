"""Pages about a plan and about a comparison: what they show, as data, and the HTML files that show it."""

from .comparison import ComparisonPage, render_comparison, write_comparison
from .phases import PhasesPage, render_phases_page, write_phases_page
from .report import Report, Surrounding, render_report, write_report
from .rivals import Rival

__all__ = [
    "ComparisonPage",
    "PhasesPage",
    "Report",
    "Rival",
    "Surrounding",
    "render_comparison",
    "render_phases_page",
    "render_report",
    "write_comparison",
    "write_phases_page",
    "write_report",
]
