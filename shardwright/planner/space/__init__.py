"""The space that is searched: fixed choices, every combination that divides, as arrays, and the row costs."""

from .asked import asked
from .costs import EntryCosts, SpaceCosts, space_costs
from .enumerate import SCHEDULES, Space, check_fixed, enumerate_space
from .fixed import Fixed
from .meshes import meshes_of
from .ranges import LayerRanges, layer_ranges
from .software import check_runs, kept_by
from .stage_sizes import ChunkSizes, chunk_sizes, near_even_sizes

__all__ = [
    "SCHEDULES",
    "ChunkSizes",
    "EntryCosts",
    "Fixed",
    "LayerRanges",
    "Space",
    "SpaceCosts",
    "asked",
    "check_fixed",
    "check_runs",
    "chunk_sizes",
    "enumerate_space",
    "kept_by",
    "layer_ranges",
    "meshes_of",
    "near_even_sizes",
    "space_costs",
]
