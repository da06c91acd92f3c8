"""Which plan is best: the space, its bounds, the partition over stages, the search, and why the answer is what it is."""

from .explain import explain
from .fixed import Fixed
from .search import RunnerUp, SearchResult, search

__all__ = ["Fixed", "RunnerUp", "SearchResult", "explain", "search"]
