"""Training beside frozen weights: what adapters compute, keep and launch, and what frozen weights cost in the passes."""

from .adapters import Adapters
from .base_format import BaseWeights, stored_bytes
from .unneeded import unneeded_kernels, unneeded_norm_passes

__all__ = [
    "Adapters",
    "BaseWeights",
    "stored_bytes",
    "unneeded_kernels",
    "unneeded_norm_passes",
]
