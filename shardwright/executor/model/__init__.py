"""A Hugging Face model for the engine: its family, its division over tensor
parallelism, its stages, its initial weights."""

from .attention import recompute_core
from .families import FAMILIES
from .hugging_face import Skeleton, read_skeleton, unfuse
from .initial_weights import materialise
from .stage_module import StageModule
from .tensor_parallel import divide, replicated, stream_layout, vocabulary_parallel_embedding, vocabulary_parallel_head

__all__ = [
    "FAMILIES",
    "Skeleton",
    "StageModule",
    "divide",
    "materialise",
    "read_skeleton",
    "recompute_core",
    "replicated",
    "stream_layout",
    "unfuse",
    "vocabulary_parallel_embedding",
    "vocabulary_parallel_head",
]
