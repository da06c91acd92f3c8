"""Small runs on this machine beside their predictions: which, one of them, and the tables of all (`benchmarks/own_runs.py`)."""

from .alone import run_alone
from .configuration import IN_BF16, TWELVE, OwnConfiguration
from .run import OwnRun, OwnSummary, Pass, interpolation_targets
from .tables import own_runs_csv, own_runs_tables

__all__ = [
    "IN_BF16",
    "TWELVE",
    "OwnConfiguration",
    "OwnRun",
    "OwnSummary",
    "Pass",
    "interpolation_targets",
    "own_runs_csv",
    "own_runs_tables",
    "run_alone",
]
