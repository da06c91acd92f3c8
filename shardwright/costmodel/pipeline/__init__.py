"""The pipeline: schedules as data, the microbatches alive at once, the step as the longest path, and its event
simulation.

Schedules are generated, validated and walked. The closed form of the step and the simulation must agree.
"""

from .action import ActionKind, parse_work
from .in_flight import (
    alive_counts,
    peak_activation_bytes,
    peak_in_flight,
    runs_of_chunk,
    split_counts,
    summed_moments,
    waiting_bytes,
    waiting_counts,
    waiting_microbatches,
)
from .longest_path import longest_path, longest_path_ends
from .orders import warm_up_forwards
from .schedule import make_schedule
from .simulation import simulate
from .stage_costs import StageCosts
from .step import step_parts, step_seconds

__all__ = [
    "ActionKind",
    "StageCosts",
    "alive_counts",
    "longest_path",
    "longest_path_ends",
    "make_schedule",
    "parse_work",
    "peak_activation_bytes",
    "peak_in_flight",
    "runs_of_chunk",
    "simulate",
    "split_counts",
    "step_parts",
    "step_seconds",
    "summed_moments",
    "waiting_bytes",
    "waiting_counts",
    "waiting_microbatches",
    "warm_up_forwards",
]
