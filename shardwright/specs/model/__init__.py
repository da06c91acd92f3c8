"""The model as a noun: blocks between an embedding and a head, their attention and feed-forward, counted to the parameter."""

from .attention import AnyAttention, LatentAttention, MultiHeadAttention, NoAttention
from .feed_forward import NO_FEED_FORWARD, Activation, FeedForward, MixtureOfExperts
from .linear_attention import GatedDelta, Lightning, LinearAttention, Mamba2
from .model import Block, BlockRun, ModelSpec
from .norm import Norm
from .parameter import Parameter

__all__ = [
    "NO_FEED_FORWARD",
    "Activation",
    "AnyAttention",
    "Block",
    "BlockRun",
    "FeedForward",
    "GatedDelta",
    "LatentAttention",
    "Lightning",
    "LinearAttention",
    "Mamba2",
    "MixtureOfExperts",
    "ModelSpec",
    "MultiHeadAttention",
    "NoAttention",
    "Norm",
    "Parameter",
]
