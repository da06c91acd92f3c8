"""Weights in Hugging Face's layout, and the tensors of the engine: names and shapes converted, elements read when a shard asks for them."""

from .conversion import checkpoint_tensors
from .folder import INDEX, TensorFile, read_weights_folder
from .growing import Growth, check_growth
from .nodes import Mean, Node, Pieces, Region
from .pretrained import Pretrained, read_pretrained
from .reader import StoredReader
from .stored import StoredTensor, elements

__all__ = [
    "INDEX",
    "Growth",
    "Mean",
    "Node",
    "Pieces",
    "Pretrained",
    "Region",
    "StoredReader",
    "StoredTensor",
    "TensorFile",
    "check_growth",
    "checkpoint_tensors",
    "elements",
    "read_pretrained",
    "read_weights_folder",
]
