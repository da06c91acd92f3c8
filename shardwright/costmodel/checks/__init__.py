"""Checks of a plan against a model, a batch and a cluster: divisibility before any cost, memory after it."""

from .memory import check_memory, lacking_bytes, nodes_of_ranks
from .plan import (
    EXPERT_COLUMNS,
    MIXED_SCHEDULES,
    check_choices,
    check_expert_parallel,
    check_layer_counts,
    check_mixed,
    check_plan,
    check_replicas,
    check_tensor_parallel,
    check_trainable,
    loses_errors,
    tensor_parallel_sizes,
    why_not_agree,
)
from .sequence import check_context_parallel, check_sequence, check_sequence_chunks, ulysses_degrees

__all__ = [
    "EXPERT_COLUMNS",
    "MIXED_SCHEDULES",
    "check_choices",
    "check_context_parallel",
    "check_expert_parallel",
    "check_layer_counts",
    "check_memory",
    "check_mixed",
    "check_plan",
    "check_replicas",
    "check_sequence",
    "check_sequence_chunks",
    "check_tensor_parallel",
    "check_trainable",
    "lacking_bytes",
    "loses_errors",
    "nodes_of_ranks",
    "tensor_parallel_sizes",
    "ulysses_degrees",
    "why_not_agree",
]
