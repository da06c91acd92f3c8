"""Kept bytes of one layer, counted kernel by kernel."""

import pytest

from shardwright.costmodel.layers.core.documents import context_length
from shardwright.costmodel.layers.operators import (
    Matmul,
    attention_matmuls,
    ffn_matmuls,
    on_own_tokens,
    saved_bytes,
    score_bytes,
)
from shardwright.costmodel.layers.recompute import not_run_again
from shardwright.specs.model import Block, FeedForward, LatentAttention, MixtureOfExperts, MultiHeadAttention
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import small_model
from tests.costmodel.layers.test_traffic import GPT, HIDDEN, KEY, LLAMA, QUERY, WIDTH


@pytest.mark.parametrize(
    ("window", "mean"),
    [(None, (1 + 2 + 3 + 4) / 4), (2, (1 + 2 + 2 + 2) / 4), (1, 1), (9, (1 + 2 + 3 + 4) / 4)],
)
def test_keys_that_a_query_of_four_sees(window: int | None, mean: float) -> None:
    assert context_length(4, window) == mean


def test_a_full_recompute_leaves_out_the_last_matmul_or_the_last_tile_by_hand() -> None:
    """10 tokens, hidden 8, width 6, gated: 2 x 10 x 8 x 6 = 960 FLOPs for each of three matmuls, of which a half is the last of 2 tiles."""
    block = Block(attention=MultiHeadAttention(heads=2, kv_heads=2, head_size=4), ffn=FeedForward(width=6, gated=True))
    layer = [Matmul(10, 8, 8, modules=("o_proj",)), *ffn_matmuls(block, 8, 10, 1, joined=False)]
    assert [float(matmul.flops) for matmul in not_run_again(block, small_model(), 1, layer)] == [960]
    assert [float(matmul.flops) for matmul in not_run_again(block, small_model(), 2, layer)] == [480, 480, 480]


@pytest.mark.parametrize(
    ("family", "shared_width", "left_out"),
    [("deepseek_v3", 6, [960]), ("deepseek_v3", 0, []), ("ernie4_5_moe", 6, []), ("qwen2_moe", 6, [])],
)
def test_a_layer_of_experts_leaves_out_shared_ones_that_end_it(
    family: str, shared_width: int, left_out: list[float]
) -> None:
    """As transformers writes them: ERNIE's run before the routed ones, and a gate reads those of Qwen2-MoE."""
    ffn = MixtureOfExperts(experts=4, top_k=2, expert_width=5, shared_width=shared_width)
    block = Block(attention=MultiHeadAttention(heads=2, kv_heads=2, head_size=4), ffn=ffn)
    model = small_model().model_copy(update={"family": family})
    layer = ffn_matmuls(block, 8, 10, 1, joined=False)
    assert [float(matmul.flops) for matmul in not_run_again(block, model, 1, layer)] == left_out


def test_projections_to_latents_compute_a_ranks_own_tokens() -> None:
    latent = LatentAttention(heads=4, query_rank=12, kv_rank=16, plain_size=8, rotary_size=8, value_head_size=8)
    block = Block(attention=latent, ffn=FeedForward(width=6, gated=True))
    rows = {each.modules[0]: float(each.m) for each in on_own_tokens(attention_matmuls(block, 32, 100, 4), 4)}
    assert rows == {"q_a_proj": 25, "kv_a_proj": 25, "q_b_proj": 100, "kv_b_proj": 100, "o_proj": 100}


class TestKorthikanti:
    """Korthikanti et al. 2022 (arXiv 2205.05198): bytes a layer keeps, divided by s b h; here a s / h = 8."""

    SEQ = 128
    training = TrainingSpec(
        seq_len=SEQ, global_batch=1, stack="megatron-lm", attention="unfused", precision=Precision(compute="fp16")
    )
    scores = 5 * 4 * SEQ / HIDDEN

    def per_hidden(self, *, tp: int, sequence_split: int) -> float:
        kept = saved_bytes(GPT, self.training, HIDDEN, tp, sequence_split) + score_bytes(GPT, self.training, tp)
        return float(kept) / HIDDEN

    def test_equation_1_no_parallelism(self) -> None:
        assert self.per_hidden(tp=1, sequence_split=1) == 34 + self.scores

    def test_equation_2_tensor_parallel(self) -> None:
        assert self.per_hidden(tp=4, sequence_split=1) == 10 + 24 / 4 + self.scores / 4

    def test_equation_4_sequence_parallel(self) -> None:
        assert self.per_hidden(tp=4, sequence_split=4) == 34 / 4 + self.scores / 4


def kept(stack: str, linear: str | None = None) -> float:
    given = {"seq_len": 128, "global_batch": 1, "stack": stack, "precision": {"compute": "bf16", "linear": linear}}
    return float(saved_bytes(LLAMA, TrainingSpec.parse(given, source="test"), HIDDEN, 1, 1))


@pytest.mark.parametrize("linear", ["fp8", "fp8-rowwise", "mxfp8"])
def test_a_compiler_casts_operands_again(linear: str) -> None:
    """Two norms' inputs; queries, keys and values of four heads, the output in 16 bits and in 8; gate and up. The outputs of
    norms and of the activation are made again. A log-sum-exp for each of 4 heads."""
    again = 2 * (2 * HIDDEN + 3 * QUERY + 2 * WIDTH) + 3 * QUERY + 4 * 4
    assert kept("torchtitan-compiled-loss", linear) == again
    plain = again + 2 * (2 * HIDDEN + WIDTH) - QUERY
    assert kept("torchtitan-compiled-loss") == plain
    # the weights' gradients are matmuls in 16 bits
    assert kept("torchtitan-compiled-loss", "fp8-rowwise-gw-hp") == plain


def test_an_eager_norm_of_torch_keeps_both_factors_of_its_weight_in_fp32() -> None:
    """Input and normalised input of two norms, 2 bytes more for the latter; keys and values of four heads in place of two."""
    assert kept("torchtitan-eager") - kept("shardwright") == 2 * 2 * HIDDEN + 2 * 2 * (QUERY - KEY)
