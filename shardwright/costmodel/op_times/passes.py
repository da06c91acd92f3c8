"""Reads and writes of each element by memory-bound operators, and the extra computation of attention's backward."""

from collections.abc import Mapping

from shardwright.specs import OptimizerName

from .protocol import Operator

OPERATOR_PASSES: Mapping[Operator, tuple[float, float]] = {
    "rmsnorm": (2.0, 5.0),
    "eager_rmsnorm": (6.0, 14.0),
    "layernorm": (2.0, 5.0),
    "addition": (3.0, 3.0),
    "dropout": (2.0, 2.0),
    "rotary": (2.0, 2.0),
    "eager_rotary": (4.0, 4.0),
    "gated_activation": (3.0, 5.0),
    "eager_gated_activation": (5.0, 9.0),
    "activation": (2.0, 3.0),
    "copy": (2.0, 2.0),
    "column_sum": (1.0, 1.0),
    "embedding": (2.0, 3.0),
}
"""Reads and writes of each element, forward and backward, counted kernel by kernel (see layers/traffic.py). The forward
of a bias, `column_sum`, has none, because it is part of the matmul."""

UPDATE_PASSES: Mapping[OptimizerName, float] = {"adamw": 7.0, "sgd": 3.0}
"""Elements that one update moves for a parameter: it reads parameter, gradient and states, and writes all but the gradient."""
CLIP_PASSES = 3.0
"""Read for the norm; read and write to scale."""

ATTENTION_BACKWARD = 2.5
"""FLOPs of attention's backward for each of its forward: five matmuls for two (Dao 2023, FlashAttention-2, section 4.1)."""
