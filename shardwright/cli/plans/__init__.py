"""What several commands do with one plan: explain it, print it, trace a step of it."""

from .dry_run import given_ranks, print_dry_run, traced
from .explained import Explained, explained
from .printing import parameter_counts, print_plan, write_json

__all__ = [
    "Explained",
    "explained",
    "given_ranks",
    "parameter_counts",
    "print_dry_run",
    "print_plan",
    "traced",
    "write_json",
]
