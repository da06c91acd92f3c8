"""The work of one row of the model (a layer, the embedding, the head) on its rank in one microbatch.

Work is: matmuls, memory traffic, kept bytes, repeated work under recompute, and the exchanges of context and expert
parallelism.
"""

from . import frame, operators, weight_matmuls
from .all_rows import WorkModel
from .core import HASH_COORDINATES, HASHES
from .flops import (
    adapter_parameters,
    left_out_flops_per_sequence,
    model_flops_per_sequence,
    recompute_flops_per_sequence,
)
from .row import RowWork
from .traffic import Moving, backward_traffic, forward_traffic, joins_attention

__all__ = [
    "HASHES",
    "HASH_COORDINATES",
    "Moving",
    "RowWork",
    "WorkModel",
    "adapter_parameters",
    "backward_traffic",
    "forward_traffic",
    "frame",
    "joins_attention",
    "left_out_flops_per_sequence",
    "model_flops_per_sequence",
    "operators",
    "recompute_flops_per_sequence",
    "weight_matmuls",
]
