"""The search over entries: branch and bound, its result, and the error where nothing fits."""

from .branch_and_bound import BranchAndBound, Progress
from .nothing_fits import fits, infeasible, lacking_bytes
from .portfolio import Found, Portfolio
from .result import AsGiven, RunnerUp, SearchResult, TradeOff
from .simplest import simplest
from .trade_offs import trade_offs

__all__ = [
    "AsGiven",
    "BranchAndBound",
    "Found",
    "Portfolio",
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
