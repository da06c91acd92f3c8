"""Named strategies beside the planner's choice and given plans, for one model and cluster, or over a sweep of them."""

from .side_by_side import BEST, Searched, SearchPlan, compare
from .simpler import simplest_rival
from .strategies import STRATEGIES, levels_of, strategies_for
from .sweeps import SWEEPS, Setting, SweepName, read_sweep, settings_of, sweep

__all__ = [
    "BEST",
    "STRATEGIES",
    "SWEEPS",
    "SearchPlan",
    "Searched",
    "Setting",
    "SweepName",
    "compare",
    "levels_of",
    "read_sweep",
    "settings_of",
    "simplest_rival",
    "strategies_for",
    "sweep",
]
