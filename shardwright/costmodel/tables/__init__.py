"""Cost tables: the work of every row for many candidates at once, with data parallelism, the optimizer and memory added, and the sums of
rows that a stage holds."""

from .build import build_tables
from .cost_tables import CostTables
from .distinct_rows import distinct
from .fixed import communicator_bytes, context_bytes, fixed_bytes, usable_bytes
from .stage_sums import StageSums, candidates_of, row_counts

__all__ = [
    "CostTables",
    "StageSums",
    "build_tables",
    "candidates_of",
    "communicator_bytes",
    "context_bytes",
    "distinct",
    "fixed_bytes",
    "row_counts",
    "usable_bytes",
]
