"""The cheapest strategies of the layers of one stage within its memory: what is recomputed, and what goes to the host."""

from .offload_mix import OffloadMixes, OffloadMixSolver
from .recompute_mix import Mixes, MixSolver, Postponed, Room, allowed_strategies, useful_policies

__all__ = [
    "MixSolver",
    "Mixes",
    "OffloadMixSolver",
    "OffloadMixes",
    "Postponed",
    "Room",
    "allowed_strategies",
    "useful_policies",
]
