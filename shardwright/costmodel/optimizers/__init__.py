"""What each optimizer keeps, moves and computes for a weight, where it can update, and how ranks share methods that need whole matrices.

The tables multiply it by elements and matrices of their rows.
"""

from .checks import can_update, check_optimizer, check_updates, off_device, why_not_updated
from .dealing import deal, imbalance
from .elementwise import moved_bytes_per_element, state_bytes_per_element
from .matrices import Matrix, layer_matrices
from .whole import EXCHANGES, MatrixWork, factor_seconds, work_of

__all__ = [
    "EXCHANGES",
    "Matrix",
    "MatrixWork",
    "can_update",
    "check_optimizer",
    "check_updates",
    "deal",
    "factor_seconds",
    "imbalance",
    "layer_matrices",
    "moved_bytes_per_element",
    "off_device",
    "state_bytes_per_element",
    "why_not_updated",
    "work_of",
]
