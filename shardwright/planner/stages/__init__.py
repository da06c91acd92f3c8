"""The solution of one entry: the cheapest recompute mix that fits each stage,
and the partition of layers over stages."""

from .bottleneck import smallest_largest
from .partition import allowed_ranges, evaluate, stage_bounds
from .paths import waiting_arms
from .recompute_mix import MixSolver, Room, allowed_policies
from .solve_entry import EntrySolver, Solved, plan_of
from .staged_entry import StagedEntry
from .tables import StageTables, mix_solver, stage_room, stage_tables

__all__ = [
    "EntrySolver",
    "MixSolver",
    "Room",
    "Solved",
    "StageTables",
    "StagedEntry",
    "allowed_policies",
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
