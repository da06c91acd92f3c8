"""The model as a noun: blocks between an embedding and a head, their attention and feed-forward, counted to the parameter."""

from .attention import LatentAttention, MultiHeadAttention
from .feed_forward import Activation, FeedForward, MixtureOfExperts
from .model import Block, BlockRun, ModelSpec
from .norm import Norm
from .parameter import Parameter

__all__ = [
    "Activation",
    "Block",
    "BlockRun",
    "FeedForward",
    "LatentAttention",
    "MixtureOfExperts",
    "ModelSpec",
    "MultiHeadAttention",
    "Norm",
    "Parameter",
]
