"""The passes of a step: the loss of a microbatch, microbatches in turn or through a pipeline, when their gradients are reduced, and
passes without gradients."""

from .accumulation import Accumulation
from .chunked_loss import check_loss_chunks, compute_loss_in_head
from .forward_only import ForwardOnly
from .gradient_sync import GradientSync
from .loss import IGNORED_LABEL, LOSS, LossFunction, TokenLoss
from .pipeline import Pipeline, TiedEmbedding
from .split_backward import check_split_backward

__all__ = [
    "IGNORED_LABEL",
    "LOSS",
    "Accumulation",
    "ForwardOnly",
    "GradientSync",
    "LossFunction",
    "Pipeline",
    "TiedEmbedding",
    "TokenLoss",
    "check_loss_chunks",
    "check_split_backward",
    "compute_loss_in_head",
]
