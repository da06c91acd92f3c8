"""Reads and writes of each element by memory-bound operators, and the extra computation of attention's backward."""

from collections.abc import Mapping

from shardwright.specs import BYTES_PER_ELEMENT, OptimizerName

from .protocol import Operator

OPERATOR_PASSES: Mapping[Operator, tuple[float, float]] = {
    "rmsnorm": (2.0, 5.0),
    "eager_rmsnorm": (18.0, 46.0),
    "layernorm": (2.0, 5.0),
    "addition": (3.0, 3.0),
    "dropout": (2.5, 2.5),
    "rotary": (2.0, 2.0),
    "eager_rotary": (10.0, 14.0),
    "gated_activation": (3.0, 5.0),
    "eager_gated_activation": (5.0, 9.0),
    "activation": (2.0, 3.0),
    "copy": (2.0, 2.0),
    "column_sum": (1.0, 1.0),
    "embedding": (2.0, 3.0),
}
"""Reads and writes of each element in 16 bits, forward and backward. Those of fused kernels are counted from what a kernel
needs, those of eager PyTorch from what torch runs for transformers' Llama (tests/costmodel/layers/test_counted_traffic.py):
its norm works in fp32, so that a pass there counts twice. The mask of a dropout has a byte for each element. The forward of
a bias, `column_sum`, has none, because it is part of the matmul."""

_FP32_PASSES: Mapping[Operator, tuple[float, float]] = {"eager_rmsnorm": (7.0, 23.0), "dropout": (2.25, 2.25)}

# The same for each attention score between the two matmuls of unfused attention: scale, mask, softmax, dropout. Eager code
# may run the softmax in fp32 and cast it.
_FUSED_SCORES, _EAGER_SCORES, _EAGER_UNCAST_SCORES = (4.5, 5.5), (14.0, 14.0), (6.0, 5.0)


def operator_passes(operator: Operator, element_bytes: int, *, backward: bool = False) -> float:
    """Return reads and writes of each element by `operator`, where an element has `element_bytes` (2 or 4)."""
    passes = OPERATOR_PASSES[operator]
    if element_bytes == BYTES_PER_ELEMENT["fp32"]:
        passes = _FP32_PASSES.get(operator, passes)
    return passes[backward]


def score_passes(*, fused: bool, casts: bool) -> tuple[float, float]:
    """Return reads and writes of each attention score, forward and backward, in a fused softmax or in eager PyTorch, which
    `casts` scores of 16 bits to fp32 and back."""
    if fused:
        return _FUSED_SCORES
    return _EAGER_SCORES if casts else _EAGER_UNCAST_SCORES


UPDATE_PASSES: Mapping[OptimizerName, float] = {"adamw": 7.0, "sgd": 3.0}
"""Elements that one update moves for a parameter: it reads parameter, gradient and states, and writes all but the gradient."""
FOREACH_UPDATE_PASSES: Mapping[OptimizerName, float] = {"adamw": 20.0, "sgd": 3.0}
"""The same by foreach kernels. AdamW has eight: decay, first moment, two for the second, its root, two for the denominator,
and the step (torch/optim/adam.py, _multi_tensor_adam)."""
CLIP_PASSES = 3.0
"""Read for the norm; read and write to scale."""

ATTENTION_BACKWARD = 2.5
"""FLOPs of attention's backward for each of its forward: five matmuls for two (Dao 2023, FlashAttention-2, section 4.1)."""
