"""The solution of one entry: the cheapest recompute mix that fits each stage,
and the partition of layers over stages."""

from .bottleneck import smallest_largest
from .partition import allowed_ranges, evaluate, stage_bounds
from .paths import waiting_arms
from .solve_entry import EntrySolver, Solved, plan_of
from .staged_entry import StagedEntry
from .tables import StageTables, mix_solver, stage_room, stage_tables

__all__ = [
    "EntrySolver",
    "Solved",
    "StageTables",
    "StagedEntry",
    "allowed_ranges",
    "evaluate",
    "mix_solver",
    "plan_of",
    "smallest_largest",
    "stage_bounds",
    "stage_room",
    "stage_tables",
    "waiting_arms",
]
