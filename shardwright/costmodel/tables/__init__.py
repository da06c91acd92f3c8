"""Cost tables: the work of every row for many candidates at once.

Data parallelism, the optimizer and memory are added, and rows are summed over stages.
"""

from .build import LeastCosts, build_least, build_tables, crossing_seconds
from .cost_tables import CostTables
from .memory import (
    HeldBytes,
    communicator_bytes,
    context_bytes,
    fixed_bytes,
    host_reserve_for,
    host_share_bytes,
    message_bytes,
    nvme_share_bytes,
    receive_buffer_bytes,
    usable_bytes,
)
from .rows import RowCosts, Rows, StageSeconds, ends_of, rank_bytes, stage_causes, stage_seconds
from .stage_sums import StageSums, candidates_of, layer_mixes

__all__ = [
    "CostTables",
    "HeldBytes",
    "LeastCosts",
    "RowCosts",
    "Rows",
    "StageSeconds",
    "StageSums",
    "build_least",
    "build_tables",
    "candidates_of",
    "communicator_bytes",
    "context_bytes",
    "crossing_seconds",
    "ends_of",
    "fixed_bytes",
    "host_reserve_for",
    "host_share_bytes",
    "layer_mixes",
    "message_bytes",
    "nvme_share_bytes",
    "rank_bytes",
    "receive_buffer_bytes",
    "stage_causes",
    "stage_seconds",
    "usable_bytes",
]
