"""Which plan is best: the space, its bounds, the partition over stages, the search, and why the answer is what it is."""

from shardwright.planner.space.fixed import Fixed
from shardwright.planner.why.explain import explain

from .search import RunnerUp, SearchResult, search

__all__ = ["Fixed", "RunnerUp", "SearchResult", "explain", "search"]
