"""A run in phases: each so many steps of a job under a plan of its own, and what it costs to go from one plan to the next.

Sequences may get longer, batches larger and the model deeper from phase to phase. The optimizer stays.
"""

from .growth import LAYERS, OUTPUTS, GrownLayer, grown_layers, why_not_grow
from .phases_file import Phase, PhasesFile, Span, is_phases_file, read_phases_file, write_phases_file
from .switching import Job, Switch, Switching, same_placement, state_bytes, switch_between

__all__ = [
    "LAYERS",
    "OUTPUTS",
    "GrownLayer",
    "Job",
    "Phase",
    "PhasesFile",
    "Span",
    "Switch",
    "Switching",
    "grown_layers",
    "is_phases_file",
    "read_phases_file",
    "same_placement",
    "state_bytes",
    "switch_between",
    "why_not_grow",
    "write_phases_file",
]
