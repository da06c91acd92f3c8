"""Compares named strategies, given plans and the planner's choice for one model and cluster; finds the simplest rival of a plan."""

from .side_by_side import BEST, compare
from .simpler import simplest_rival
from .strategies import STRATEGIES

__all__ = ["BEST", "STRATEGIES", "compare", "simplest_rival"]
