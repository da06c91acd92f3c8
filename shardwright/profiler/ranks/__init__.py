"""Several ranks that measure together: their launch, their communication, and their end when one of them fails."""

from .launch import detected_launch
from .layout import GroupLayout, GroupSizes, group_layouts
from .local_ranks import run_local_ranks
from .seam import AloneRanks, Ranks
from .torch_ranks import TorchRanks, joined_ranks

__all__ = [
    "AloneRanks",
    "GroupLayout",
    "GroupSizes",
    "Ranks",
    "TorchRanks",
    "detected_launch",
    "group_layouts",
    "joined_ranks",
    "run_local_ranks",
]
