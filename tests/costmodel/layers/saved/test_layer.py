"""The sum over a layer of hidden size 64 without heads to speak of: what norms and the inputs of matmuls keep."""

import numpy as np
import pytest

from shardwright.costmodel.layers.saved import SavedTensors, layer_code
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block
from shardwright.specs.model.norm import Norm
from shardwright.specs.training import TrainingSpec

HIDDEN, TOKENS = 64, 256
REST = 2 * 4 * 64 + 4 * 4 + 2 * 2 * 96  # attention with four heads and keys, and a plain feed-forward, both in bf16
LAYER_NORM = Norm(kind="layernorm", bias=True)


def kept(family: str, *, tp: int = 1, sequence_split: int = 1, **properties: object) -> float:
    attention = MultiHeadAttention(heads=4, kv_heads=4, head_size=16)
    plain = Block(attention=attention, ffn=FeedForward(width=96, gated=False))
    block = plain.model_copy(update=properties)
    tensors = SavedTensors(
        block=block,
        code=layer_code(family, block),
        training=TrainingSpec(seq_len=128, global_batch=8),
        hidden=HIDDEN,
        tokens=np.array([float(TOKENS)]),
        single=np.array([False]),
        tp=np.array([tp]),
        sequence_split=np.array([sequence_split]),
        copies=np.zeros(()),
        computed=np.zeros(()),
        columns=np.zeros(()),
    )
    assert tensors.kept_selective == tensors.kept  # a flash kernel
    return float(tensors.kept.item())


def test_two_norms_and_the_inputs_of_two_sublayers() -> None:
    assert kept("llama") == TOKENS * (2 * (6 * HIDDEN + 4) + 2 * 2 * HIDDEN + REST)


def test_sequence_parallelism_splits_the_norms_alone() -> None:
    assert kept("llama", tp=2, sequence_split=2) == TOKENS * ((6 * HIDDEN + 4) + 2 * 2 * HIDDEN + REST / 2)


@pytest.mark.parametrize(("norms", "inputs"), [(1, 1), (2, 2)])
def test_layer_norms_of_parallel_sublayers_read_one_tensor(norms: int, inputs: int) -> None:
    found = kept("llama", norm=LAYER_NORM, parallel=True, norm_count=norms)
    assert found == TOKENS * (2 * HIDDEN + norms * 8 + inputs * 2 * HIDDEN + REST)


def test_gemmas_weights_plus_one_do_not_grow_with_the_tokens() -> None:
    assert kept("gemma") == TOKENS * (2 * (8 * HIDDEN + 4) + 2 * 2 * HIDDEN + REST) + 2 * 4 * HIDDEN
