"""A plan, an estimate, a comparison or a run in words, tables, figures and on one page."""

from .breakdown import measured_table, memory_table, step_table, timeline_table
from .comparison import ComparedPlan, Comparison
from .others import OtherPlan, others_json, others_table
from .report import Report, write_report
from .summary import Summary, summary_text
from .tables import comparison_table, goodput_table, plan_table
from .traced import traced_notes, traced_table
from .words import choice_words

__all__ = [
    "ComparedPlan",
    "Comparison",
    "OtherPlan",
    "Report",
    "Summary",
    "choice_words",
    "comparison_table",
    "goodput_table",
    "measured_table",
    "memory_table",
    "others_json",
    "others_table",
    "plan_table",
    "step_table",
    "summary_text",
    "timeline_table",
    "traced_notes",
    "traced_table",
    "write_report",
]
