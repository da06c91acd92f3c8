"""Optimizers beside AdamW and plain SGD on this rank's shards: elementwise ones of packages, and methods that need whole matrices.

Whole matrices are put together on one rank each, which updates them, and their updates are taken apart again.
"""

from .checks import check_optimizer
from .local import LocalShards
from .whole import WholeMatrices, matrices_of

__all__ = ["LocalShards", "WholeMatrices", "check_optimizer", "matrices_of"]
