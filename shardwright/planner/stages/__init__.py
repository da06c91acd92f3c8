"""One entry solved: the cheapest recompute mix that fits each stage, and the partition of the layers over the stages."""

from .bottleneck import smallest_largest
from .partition import evaluate, stage_bounds
from .recompute_mix import MixSolver, Room, allowed_policies
from .solve_entry import EntrySolver, Solved, plan_of
from .tables import StageTables, ends_of, mix_solver, row_largest, row_totals, stage_room, stage_tables

__all__ = [
    "EntrySolver",
    "MixSolver",
    "Room",
    "Solved",
    "StageTables",
    "allowed_policies",
    "ends_of",
    "evaluate",
    "mix_solver",
    "plan_of",
    "row_largest",
    "row_totals",
    "smallest_largest",
    "stage_bounds",
    "stage_room",
    "stage_tables",
]
