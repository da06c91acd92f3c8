"""The search over entries: branch and bound, its result, and the error where nothing fits."""

from .branch_and_bound import BranchAndBound, Progress
from .nothing_fits import infeasible, lacking_bytes
from .portfolio import Found, Portfolio
from .result import AsGiven, RunnerUp, SearchResult
from .simplest import simplest

__all__ = [
    "AsGiven",
    "BranchAndBound",
    "Found",
    "Portfolio",
    "Progress",
    "RunnerUp",
    "SearchResult",
    "infeasible",
    "lacking_bytes",
    "simplest",
]
