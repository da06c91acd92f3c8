"""Which plan is best. `search` minimises the predicted step over all plans that divide and fit, and says how far from the optimum of the
cost model its answer can be."""

from .best_plan import search
from .branching.result import RunnerUp, SearchResult
from .space.fixed import Fixed
from .why.sentences import explain

__all__ = ["Fixed", "RunnerUp", "SearchResult", "explain", "search"]
