"""Dry runs: one step of any plan traced without storage, in a world of ranks that do not exist, beside what it is charged.

The engine is the one of a run. Only its tensors and its process group are fake.
"""

from .comparison import SCALARS, SPLIT_LOSS, TOKEN_COUNTS, dry_run

__all__ = ["SCALARS", "SPLIT_LOSS", "TOKEN_COUNTS", "dry_run"]
