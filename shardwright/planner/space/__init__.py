"""The space that is searched: fixed choices, every combination that divides, as arrays, and the row costs."""

from .asked import asked
from .costs import EntryCosts, SpaceCosts, space_costs
from .enumerate import SCHEDULES, Space, enumerate_space
from .fixed import Fixed
from .ranges import LayerRanges, layer_ranges
from .software import check_runs, kept_by
from .stage_sizes import ChunkSizes, chunk_sizes

__all__ = [
    "SCHEDULES",
    "ChunkSizes",
    "EntryCosts",
    "Fixed",
    "LayerRanges",
    "Space",
    "SpaceCosts",
    "asked",
    "check_runs",
    "chunk_sizes",
    "enumerate_space",
    "kept_by",
    "layer_ranges",
    "space_costs",
]
