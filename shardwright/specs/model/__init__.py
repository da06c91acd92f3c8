"""The model as a noun: blocks between an embedding and a head, their attention and feed-forward, counted to the parameter."""

from .attention import AnyAttention, LatentAttention, LinearAttention, MultiHeadAttention
from .feed_forward import Activation, FeedForward, MixtureOfExperts
from .model import Block, BlockRun, ModelSpec
from .norm import Norm
from .parameter import Parameter

__all__ = [
    "Activation",
    "AnyAttention",
    "Block",
    "BlockRun",
    "FeedForward",
    "LatentAttention",
    "LinearAttention",
    "MixtureOfExperts",
    "ModelSpec",
    "MultiHeadAttention",
    "Norm",
    "Parameter",
]
