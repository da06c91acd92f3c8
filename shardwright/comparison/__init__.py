"""Named strategies beside the planner's choice and given plans, for one model and cluster."""

from .side_by_side import BEST, compare
from .simpler import simplest_rival
from .strategies import STRATEGIES, levels_of

__all__ = ["BEST", "STRATEGIES", "compare", "levels_of", "simplest_rival"]
