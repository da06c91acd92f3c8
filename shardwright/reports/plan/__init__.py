"""A plan, an estimate, a comparison or a run in words and tables."""

from .breakdown import measured_table, memory_table, step_table, timeline_table
from .comparison import ComparedPlan, Comparison, comparison_table, comparison_title
from .measured import MeasuredLine, measured_lines
from .others import OtherPlan, others_json, others_table
from .phases import (
    MEASURED_PHASES_COLUMNS,
    PhaseLine,
    measured_phases_rows,
    measured_phases_table,
    other_ways_notes,
    phases_notes,
    phases_table,
    searched_notes,
)
from .summary import Summary, summary_text
from .sweep import AXIS_WORDS, Sweep, SweepPoint, cell, crossovers, shown, sweep_csv, sweep_table
from .tables import goodput_table, plan_table
from .traced import traced_notes, traced_table
from .words import choice_words, plan_lines, training_lines

__all__ = [
    "AXIS_WORDS",
    "MEASURED_PHASES_COLUMNS",
    "ComparedPlan",
    "Comparison",
    "MeasuredLine",
    "OtherPlan",
    "PhaseLine",
    "Summary",
    "Sweep",
    "SweepPoint",
    "cell",
    "choice_words",
    "comparison_table",
    "comparison_title",
    "crossovers",
    "goodput_table",
    "measured_lines",
    "measured_phases_rows",
    "measured_phases_table",
    "measured_table",
    "memory_table",
    "other_ways_notes",
    "others_json",
    "others_table",
    "phases_notes",
    "phases_table",
    "plan_lines",
    "plan_table",
    "searched_notes",
    "shown",
    "step_table",
    "summary_text",
    "sweep_csv",
    "sweep_table",
    "timeline_table",
    "traced_notes",
    "traced_table",
    "training_lines",
]
