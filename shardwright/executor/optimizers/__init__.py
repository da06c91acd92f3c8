"""Updates of this rank's shards: by torch's elementwise optimizers, by those of packages, and by methods that need whole matrices.

Whole matrices are put together on one rank each, which updates them, and their updates are taken apart again.
"""

from .checks import check_clipping, check_optimizer
from .layerwise import LayerwiseUpdates
from .local import LocalShards, on_local_tensors
from .whole import WholeMatrices, matrices_of

__all__ = [
    "LayerwiseUpdates",
    "LocalShards",
    "WholeMatrices",
    "check_clipping",
    "check_optimizer",
    "matrices_of",
    "on_local_tensors",
]
