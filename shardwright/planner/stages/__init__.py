"""The solution of one entry: the cheapest recompute mix that fits each stage,
and the partition of layers over stages."""

from .bottleneck import smallest_largest
from .critical_paths import CriticalPaths
from .every_plan import best_of_all, is_small
from .partition import allowed_ranges, best_partition, evaluate, stage_bounds
from .paths import waiting_arms
from .solve_entry import EntrySolver, Solved, plan_of
from .staged_entry import StagedEntry, StagedPlan
from .tables import StageTables, mix_solver, stage_room, stage_tables

__all__ = [
    "CriticalPaths",
    "EntrySolver",
    "Solved",
    "StageTables",
    "StagedEntry",
    "StagedPlan",
    "allowed_ranges",
    "best_of_all",
    "best_partition",
    "evaluate",
    "is_small",
    "mix_solver",
    "plan_of",
    "smallest_largest",
    "stage_bounds",
    "stage_room",
    "stage_tables",
    "waiting_arms",
]
