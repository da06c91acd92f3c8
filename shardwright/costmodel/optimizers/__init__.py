"""What each optimizer keeps, moves and computes for a weight, and how ranks share methods that need whole matrices.

The tables multiply it by elements and matrices of their rows.
"""

from .dealing import deal, imbalance
from .elementwise import moved_bytes_per_element, state_bytes_per_element
from .matrices import Matrix, layer_matrices
from .whole import EXCHANGES, MatrixWork, factor_seconds, work_of

__all__ = [
    "EXCHANGES",
    "Matrix",
    "MatrixWork",
    "deal",
    "factor_seconds",
    "imbalance",
    "layer_matrices",
    "moved_bytes_per_element",
    "state_bytes_per_element",
    "work_of",
]
