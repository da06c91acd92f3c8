"""The space that is searched: fixed choices, every combination that divides, as arrays, and the row costs."""

from .asked import asked
from .costs import EntryCosts, SpaceCosts, space_costs
from .enumerate import check_fixed, enumerate_space
from .fixed import Fixed
from .limits import SHARES
from .meshes import meshes_of
from .ranges import LayerRanges, layer_ranges
from .software import check_runs, kept_by, last_resorts
from .space import BY_CHUNK, NEAR_THE_BEST, OTHER_ORDERS_TRIED, SCHEDULES, Space, in_other_order, may_change_order
from .stage_sizes import ChunkSizes, chunk_sizes, near_even_sizes
from .variants import (
    TRIED_LOSS_CHUNKS,
    UNSTATED_TRIED,
    OpenChoices,
    Unstated,
    changed,
    keeps,
    training_variants,
    unstated_variants,
    words_of,
)

__all__ = [
    "BY_CHUNK",
    "NEAR_THE_BEST",
    "OTHER_ORDERS_TRIED",
    "SCHEDULES",
    "SHARES",
    "TRIED_LOSS_CHUNKS",
    "UNSTATED_TRIED",
    "ChunkSizes",
    "EntryCosts",
    "Fixed",
    "LayerRanges",
    "OpenChoices",
    "Space",
    "SpaceCosts",
    "Unstated",
    "asked",
    "changed",
    "check_fixed",
    "check_runs",
    "chunk_sizes",
    "enumerate_space",
    "in_other_order",
    "keeps",
    "kept_by",
    "last_resorts",
    "layer_ranges",
    "may_change_order",
    "meshes_of",
    "near_even_sizes",
    "space_costs",
    "training_variants",
    "unstated_variants",
    "words_of",
]
