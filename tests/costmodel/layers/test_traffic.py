"""Memory traffic of one layer, counted kernel by kernel."""

import pytest

from shardwright.costmodel.layers.traffic import Moving, backward_traffic, forward_traffic
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.model.norm import Norm
from shardwright.specs.stack import Stack

HIDDEN, QUERY, KEY, WIDTH = 64, 64, 32, 160
EAGER = Stack(name="eager", about="eager PyTorch")
FUSED = Stack(name="fused", about="a compiler", fused_norms=True, fused_elementwise=True)

LLAMA = Block(attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=16), ffn=FeedForward(width=WIDTH, gated=True))
GPT = Block(
    attention=MultiHeadAttention(heads=4, kv_heads=4, head_size=16, qkv_bias=True, output_bias=True),
    ffn=FeedForward(width=4 * HIDDEN, gated=False, bias=True),
    norm=Norm(kind="layernorm", bias=True),
)


def model(block: Block, *, positions: int = 0) -> ModelSpec:
    return ModelSpec(
        name="one", family="llama", hidden_size=HIDDEN, vocab_size=1000, positions=positions,
        blocks=(BlockRun(count=1, block=block),),
    )  # fmt: skip


ROTARY, LEARNED = model(LLAMA), model(GPT, positions=128)


def totals(traffic: tuple[Moving, ...]) -> tuple[float, float]:
    """Elements read or written per token, of the hidden state and between the matmuls."""
    return (
        sum(float(each.count * each.passes * each.hidden) for each in traffic),
        sum(float(each.count * each.passes * each.inner) for each in traffic),
    )


def test_an_eager_llama_layer_forward() -> None:
    """Two RMS norms of six passes, two residuals of three; rotary embedding 4, the output's layout 2, SwiGLU 5."""
    assert totals(forward_traffic(LLAMA, ROTARY, EAGER)) == (
        (2 * 6 + 2 * 3) * HIDDEN,
        4 * (QUERY + KEY) + 2 * QUERY + 5 * WIDTH,
    )


def test_an_eager_llama_layer_backward() -> None:
    """The norms 14 passes each, the residuals 3, gate's and up's input gradients 3; rotary 4; queries, keys and values brought
    together 2; the output read again and laid out 4; SwiGLU 9."""
    assert totals(backward_traffic(LLAMA, ROTARY, EAGER)) == (
        (2 * 14 + 2 * 3 + 3) * HIDDEN,
        4 * (QUERY + KEY) + 2 * (QUERY + 2 * KEY) + 4 * QUERY + 9 * WIDTH,
    )


def test_a_compiled_llama_layer() -> None:
    """A norm reads and writes once, and 5 backward; the rotary embedding 2; SwiGLU reads two and writes one, and 5 backward."""
    assert totals(forward_traffic(LLAMA, ROTARY, FUSED)) == (
        (2 * 2 + 2 * 3) * HIDDEN,
        2 * (QUERY + KEY) + 2 * QUERY + 3 * WIDTH,
    )
    assert totals(backward_traffic(LLAMA, ROTARY, FUSED)) == (
        (2 * 5 + 2 * 3 + 3) * HIDDEN,
        2 * (QUERY + KEY) + 2 * (QUERY + 2 * KEY) + 4 * QUERY + 5 * WIDTH,
    )


@pytest.mark.parametrize("stack", [EAGER, FUSED], ids=["eager", "fused"])
def test_a_gpt_layer_is_the_same_on_any_stack(stack: Stack) -> None:
    """A layer norm is one kernel always, positions are learned, GeLU reads and writes once: nothing is left to fuse. A bias
    reads the gradient of what it was added to: of output and down projection, and of query, key, value and up projection."""
    assert totals(forward_traffic(GPT, LEARNED, stack)) == ((2 * 2 + 2 * 3) * HIDDEN, 2 * HIDDEN + 2 * 4 * HIDDEN)
    assert totals(backward_traffic(GPT, LEARNED, stack)) == (
        (2 * 5 + 2 * 3 + 2) * HIDDEN,
        2 * 3 * HIDDEN + 4 * HIDDEN + 3 * 4 * HIDDEN + (3 + 4) * HIDDEN,
    )


@pytest.mark.parametrize(("fused", "forward"), [(False, 2), (True, 0)])
def test_dropout_reads_and_writes_once_more_a_sublayer(fused: bool, forward: int) -> None:
    """Its forward is part of the residual's kernel where that is fused."""
    plain = FUSED if fused else EAGER
    dropping = plain.model_copy(update={"dropout": True})
    for traffic, passes in ((forward_traffic, forward), (backward_traffic, 2)):
        more = totals(traffic(GPT, LEARNED, dropping))[0] - totals(traffic(GPT, LEARNED, plain))[0]
        assert more == 2 * passes * HIDDEN


def test_a_parallel_block_has_one_residual() -> None:
    parallel = LLAMA.model_copy(update={"parallel": True, "norm_count": 1})
    assert totals(forward_traffic(parallel, ROTARY, EAGER))[0] == (6 + 3) * HIDDEN
