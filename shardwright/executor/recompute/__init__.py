"""What a layer computes again in its backward pass: modules of it by Megatron-Core's names, and a feed-forward in tiles.

Each is torch's checkpoint around a module of transformers' layer, found by its structure. A whole layer is recomputed by
transformers' own layer class, the attention core by `model.recompute_core`.
"""

from .check import check_recompute
from .repeated import Repetition

__all__ = ["Repetition", "check_recompute"]
