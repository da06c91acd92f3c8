"""What selective recompute keeps and repeats of a llama layer and of a layer of experts, by hand."""

import numpy as np
import pytest

from shardwright.base.arrays import Number
from shardwright.costmodel.layers.recompute import Selection, selection
from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block
from shardwright.specs.training import TrainingSpec

HIDDEN, KEY, WIDTH, HEADS, SEQ = 64, 32, 160, 4, 128
TOKENS = np.array([256.0])
CORE = 2 * HIDDEN + 4 * HEADS  # the attention kernel's output and its log-sum-exp
LLAMA = Block(
    attention=MultiHeadAttention(heads=HEADS, kv_heads=2, head_size=16), ffn=FeedForward(width=WIDTH, gated=True)
)


def selected(stack: str, block: Block = LLAMA, *, tp: int = 1, sequence_split: int = 1) -> Selection:
    training = TrainingSpec(seq_len=SEQ, global_batch=8, stack=stack)
    found = selection(block, training, HIDDEN, TOKENS, np.array([tp]), np.array([sequence_split]))
    assert found is not None
    return found


def sizes(found: Selection) -> list[tuple[float, float]]:
    """(k, n) of each repeated matmul."""

    def plain(size: Number) -> float:
        return float(np.asarray(size).item())

    return [(plain(matmul.k), plain(matmul.n)) for matmul in found.repeated]


def test_the_attention_core_alone_is_no_selection_of_matmuls() -> None:
    training = TrainingSpec(seq_len=SEQ, global_batch=8, stack="shardwright")
    assert selection(LLAMA, training, HIDDEN, TOKENS, 1, 1) is None


def test_every_second_matmul_of_seven_is_repeated() -> None:
    """In the order q, k, v, output, gate, up, down: k, output and up."""
    assert sizes(selected("torchtitan")) == [(HIDDEN, KEY), (HIDDEN, HIDDEN), (HIDDEN, WIDTH)]


@pytest.mark.parametrize(("stack", "down"), [("torchtitan", 0), ("torchtitan-eager", HIDDEN)])
def test_of_every_second_output_a_compiler_drops_the_one_that_nothing_reads(stack: str, down: int) -> None:
    """Kept: q, v, gate, and the down projection's output by an eager stack."""
    assert selected(stack).kept_bytes.item() == CORE + 2 * (HIDDEN + KEY + WIDTH + down)


def test_elementwise_keeps_every_output_and_repeats_no_matmul() -> None:
    found = selected("xla")
    assert found.repeated == []
    assert found.kept_bytes.item() == CORE + 2 * (HIDDEN + KEY + KEY + HIDDEN + WIDTH + WIDTH + HIDDEN)


def test_what_is_no_weight_matmul_is_repeated_with_the_attention_core() -> None:
    found = selected("paxml")
    assert (found.repeated, found.core) == ([], True)
    assert found.kept_bytes.item() == selected("xla").kept_bytes.item() - CORE
    assert not selected("xla").core


def test_unfused_attention_has_no_log_sum_exp() -> None:
    training = TrainingSpec(seq_len=SEQ, global_batch=8, stack="xla", attention="unfused")
    found = selection(LLAMA, training, HIDDEN, TOKENS, 1, 1)
    assert found is not None
    assert selected("xla").kept_bytes.item() - found.kept_bytes.item() == 4 * HEADS


def test_a_plain_feed_forward_has_six_matmuls() -> None:
    """q, k, v, output, up, down: kept are q, v and up; repeated k, output and down."""
    plain = LLAMA.model_copy(update={"ffn": FeedForward(width=WIDTH, gated=False)})
    found = selected("torchtitan-eager", plain)
    assert sizes(found) == [(HIDDEN, KEY), (HIDDEN, HIDDEN), (WIDTH, HIDDEN)]
    assert found.kept_bytes.item() == CORE + 2 * (HIDDEN + KEY + WIDTH)


def test_tp_splits_what_it_computes_and_sequence_parallelism_what_it_reduces() -> None:
    split, whole = selected("xla", tp=4, sequence_split=4), selected("xla", tp=4)
    inner = (CORE + 2 * (HIDDEN + 2 * KEY + 2 * WIDTH)) / 4
    assert split.kept_bytes.item() == inner + 2 * 2 * HIDDEN / 4
    assert whole.kept_bytes.item() == inner + 2 * 2 * HIDDEN
    assert sizes(selected("torchtitan", tp=4)) == [(HIDDEN, KEY / 4), (HIDDEN / 4, HIDDEN), (HIDDEN, WIDTH / 4)]


def test_experts_keep_the_outputs_of_every_copy() -> None:
    """qkv, output, router, gate and up of two copies of a token, and back: five matmuls, none of them fused ones apart."""
    experts = LLAMA.model_copy(update={"ffn": MixtureOfExperts(experts=8, top_k=2, expert_width=48)})
    found = selected("xla", experts)
    outputs = (HIDDEN + 2 * KEY) + HIDDEN + 8 + 2 * (2 * 48) + 2 * HIDDEN
    assert found.kept_bytes.item() == CORE + 2 * outputs
    eager = selected("torchtitan-eager", experts)
    assert eager.kept_bytes.item() == CORE + 2 * ((HIDDEN + 2 * KEY) + 8 + 2 * HIDDEN)
    assert sizes(eager) == [(HIDDEN, HIDDEN), (HIDDEN, 2 * 48)]


def test_latent_attention_keeps_its_ranks_too() -> None:
    latent = LatentAttention(heads=4, query_rank=24, kv_rank=16, plain_size=12, rotary_size=4, value_head_size=12)
    block = LLAMA.model_copy(update={"attention": latent})
    outputs = [24, 4 * 16, 16 + 4, 4 * (12 + 12), HIDDEN, 2 * WIDTH, HIDDEN]
    core = (2 * 12 + 4) * 4
    assert selected("xla", block).kept_bytes.item() == core + 2 * sum(outputs)
    assert sizes(selected("torchtitan", block)) == [(24, 4 * 16), (16, 4 * 24), (HIDDEN, 2 * WIDTH)]
