"""The plans of a run in phases: which phases share a placement of weights, and which are worth a switch."""

from .phased import PhasesResult, PlannedPhase, plan_phases
from .shortest import shortest

__all__ = ["PhasesResult", "PlannedPhase", "plan_phases", "shortest"]
