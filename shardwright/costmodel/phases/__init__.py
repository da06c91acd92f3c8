"""A run in phases: each so many steps of a job under a plan of its own, and what it costs to go from one plan to the next.

Sequences may get longer and batches larger from phase to phase. The model and its optimizer stay.
"""

from .phases_file import Phase, PhasesFile, Span, is_phases_file, read_phases_file, write_phases_file
from .switching import Switch, Switching, same_placement, state_bytes, switch_between

__all__ = [
    "Phase",
    "PhasesFile",
    "Span",
    "Switch",
    "Switching",
    "is_phases_file",
    "read_phases_file",
    "same_placement",
    "state_bytes",
    "switch_between",
    "write_phases_file",
]
