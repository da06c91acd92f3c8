"""The search over entries: branch and bound, its result, and the error where nothing fits."""

from .branch_and_bound import BranchAndBound, Progress
from .nothing_fits import fits, infeasible, lacking_bytes
from .result import RunnerUp, SearchResult, TradeOff
from .simplest import simplest
from .trade_offs import trade_offs

__all__ = [
    "BranchAndBound",
    "Progress",
    "RunnerUp",
    "SearchResult",
    "TradeOff",
    "fits",
    "infeasible",
    "lacking_bytes",
    "simplest",
    "trade_offs",
]
