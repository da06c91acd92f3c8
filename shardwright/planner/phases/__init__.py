"""The plans of a run in phases: which phases share a placement of weights, and which are worth a switch."""

from .phased import PhasesResult, PlannedPhase, plan_phases
from .shortest import shortest
from .why import planned_again, searched_again, why_these_plans

__all__ = [
    "PhasesResult",
    "PlannedPhase",
    "plan_phases",
    "planned_again",
    "searched_again",
    "shortest",
    "why_these_plans",
]
