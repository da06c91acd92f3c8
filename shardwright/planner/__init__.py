"""The search for the best plan.

`search` minimises the predicted step over all plans that divide and fit. It also bounds the distance of its answer from
the optimum of the cost model.
"""

from .best_plan import OF_OTHER_AXES, TOLERANCE, ExplainNone, search
from .branching.result import RunnerUp, SearchResult
from .space.fixed import Fixed
from .space.variants import OpenChoices
from .why.sentences import explain

__all__ = [
    "OF_OTHER_AXES",
    "TOLERANCE",
    "ExplainNone",
    "Fixed",
    "OpenChoices",
    "RunnerUp",
    "SearchResult",
    "explain",
    "search",
]
