"""A Hugging Face model for the engine: where its parts are, its division over tensor parallelism, its stages, its
initial weights."""

from .attention import recompute_core, set_attention
from .check_division import check_tensor_parallel, tiny_model
from .division import LayerDivision, called_children
from .documents import attend_within_documents, check_documents, documents_in_hand, numbered_documents
from .fused import SplitLinear, StackedQueryKeyValue, engine_state, hugging_face_state, stacks_experts, unfuse
from .hugging_face import DROPOUT_ENDINGS, Skeleton, build_on_meta, lacks_fused_attention, read_config, read_skeleton
from .initial_weights import drawing_from, materialise, materialise_buffers, seed_of
from .moves import GATHER_SEQUENCE, SUM_GRADIENTS, MeshRanks, Move, Ranks
from .rules import layer_division
from .stage_module import StageModule
from .structure import unpacked_sequences
from .tensor_parallel import (
    ADAPTER_A,
    ADAPTER_B,
    compute_with,
    divide_embedding,
    divide_head,
    divide_layer,
    enter_first_layer,
    flatten_experts,
    in_shape,
    leave_last_layer,
    replicate,
)

__all__ = [
    "ADAPTER_A",
    "ADAPTER_B",
    "DROPOUT_ENDINGS",
    "GATHER_SEQUENCE",
    "SUM_GRADIENTS",
    "LayerDivision",
    "MeshRanks",
    "Move",
    "Ranks",
    "Skeleton",
    "SplitLinear",
    "StackedQueryKeyValue",
    "StageModule",
    "attend_within_documents",
    "build_on_meta",
    "called_children",
    "check_documents",
    "check_tensor_parallel",
    "compute_with",
    "divide_embedding",
    "divide_head",
    "divide_layer",
    "documents_in_hand",
    "drawing_from",
    "engine_state",
    "enter_first_layer",
    "flatten_experts",
    "hugging_face_state",
    "in_shape",
    "lacks_fused_attention",
    "layer_division",
    "leave_last_layer",
    "materialise",
    "materialise_buffers",
    "numbered_documents",
    "read_config",
    "read_skeleton",
    "recompute_core",
    "replicate",
    "seed_of",
    "set_attention",
    "stacks_experts",
    "tiny_model",
    "unfuse",
    "unpacked_sequences",
]
