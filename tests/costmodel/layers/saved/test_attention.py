"""What attention keeps, by hand: 4 query heads and 2 keys of 16 elements, 128 tokens a sequence, bf16 unless said."""

import numpy as np
import pytest

from shardwright.costmodel.layers.saved import layer_code
from shardwright.costmodel.layers.saved.attention import AttentionTensors
from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block
from shardwright.specs.training import TrainingSpec

SEQ, QUERY, KEY, HEADS = 128, 4 * 16, 2 * 16, 4
LOG_SUMS = 4 * HEADS
FFN = FeedForward(width=96, gated=True)


def tensors(
    family: str,
    *,
    kernel: str = "flash",
    tp: int = 1,
    batch: int = 2,
    compute: str = "bf16",
    latent: LatentAttention | None = None,
    **attention: int | str,
) -> AttentionTensors:
    plain = MultiHeadAttention.model_validate({"heads": HEADS, "kv_heads": 2, "head_size": 16, **attention})
    block = Block(attention=latent or plain, ffn=FFN)
    training = TrainingSpec.parse(
        {"seq_len": SEQ, "global_batch": 8, "attention": kernel, "precision": {"compute": compute}}, source="test"
    )
    return AttentionTensors(block, layer_code(family, block), training, np.array([batch == 1]), np.array([tp]))


def split(family: str, **options: object) -> float:
    return float(tensors(family, **options).split.item())  # type: ignore[arg-type] # as `tensors` takes them


class TestFlash:
    """Queries, keys, values and the output, which is the output projection's input, and a number a query."""

    def test_separate_projections(self) -> None:
        assert split("llama") == 2 * (QUERY + KEY + KEY + QUERY) + LOG_SUMS

    def test_of_a_joined_projection_without_rotation_all_three_are_views(self) -> None:
        assert split("gpt2", kv_heads=4) == 2 * (3 * QUERY + QUERY) + LOG_SUMS

    def test_beside_rotated_queries_and_keys_the_values_keep_the_joined_projection(self) -> None:
        """Phi-3: and the output, in the order of heads, is copied for the output projection."""
        assert split("phi3") == 2 * (QUERY + KEY + (QUERY + 2 * KEY) + 2 * QUERY) + LOG_SUMS

    def test_concatenated_heads_alone_copy_the_output(self) -> None:
        assert split("phi") - split("llama") == 2 * QUERY

    @pytest.mark.parametrize(("keys", "kept"), [(1, 2 * 16), (2, 2 * QUERY), (4, QUERY + 3 * QUERY)])
    def test_falcon_copies_one_key_and_grouped_ones_and_views_as_many_as_queries(self, keys: int, kept: int) -> None:
        assert split("falcon", kv_heads=keys) == 2 * (QUERY + kept + QUERY) + LOG_SUMS

    def test_a_window_repeats_keys_and_values_and_pads_the_log_sums(self) -> None:
        """With a mask transformers repeats grouped keys; 128 tokens are a multiple of 32, 48 are not."""
        assert split("mistral", window=8) == 2 * 4 * QUERY + LOG_SUMS
        short = tensors("mistral", window=8)
        shorter = AttentionTensors(
            short.block, short.code, TrainingSpec(seq_len=48, global_batch=8), short.single, short.tp
        )
        assert shorter.split.item() == 2 * 4 * QUERY + LOG_SUMS * 64 / 48

    def test_a_window_as_long_as_the_sequence_needs_no_mask(self) -> None:
        assert split("mistral", window=SEQ) == split("llama")

    def test_the_only_key_of_a_rank_is_repeated_as_a_view(self) -> None:
        assert split("mistral", window=8, tp=2) == 2 * (QUERY + KEY + KEY + QUERY) + LOG_SUMS

    def test_recompute_of_the_core_changes_nothing(self) -> None:
        assert tensors("phi3").recomputed_split == tensors("phi3").split


class TestUnfused:
    """Queries, keys and values as the matmuls read them, the scores, and the output."""

    def test_keys_and_values_are_repeated_and_the_softmax_is_kept_in_both_formats(self) -> None:
        assert split("llama", kernel="unfused") == 2 * 4 * QUERY + HEADS * SEQ * (4 + 2)

    def test_in_fp32_there_is_one_format(self) -> None:
        assert split("llama", kernel="unfused", compute="fp32") == 4 * 4 * QUERY + HEADS * SEQ * 4

    def test_gpt2_computes_the_softmax_in_the_compute_format(self) -> None:
        assert split("gpt2", kernel="unfused", kv_heads=4) == 2 * 4 * QUERY + HEADS * SEQ * 2

    def test_gemma2_caps_its_scores(self) -> None:
        assert split("gemma2", kernel="unfused") - split("gemma", kernel="unfused") == HEADS * SEQ * 2

    def test_a_sink_is_one_more_column_and_an_index(self) -> None:
        assert split("gpt_oss", kernel="unfused") == 2 * 4 * QUERY + HEADS * (2 * (SEQ + 1) + 8)

    def test_values_of_one_sequence_are_a_view_of_the_joined_projection(self) -> None:
        one, two = (split("gpt_neox", kernel="unfused", kv_heads=4, batch=batch) for batch in (1, 2))
        assert one - two == 2 * 2 * QUERY

    def test_recompute_of_the_core_keeps_its_inputs_and_its_output(self) -> None:
        kept = tensors("llama", kernel="unfused").recomputed_split.item()
        assert kept == 2 * (QUERY + KEY + KEY + QUERY)


def test_norms_of_heads_keep_a_number_for_each_head() -> None:
    """RMS: an fp32 and a bf16 tensor, and an fp32 inverse root; layer norm: its input, an fp32 mean and deviation."""
    assert split("qwen3", qk_norm="per_head") - split("llama") == 6 * (QUERY + KEY) + 4 * (4 + 2)


class TestLatent:
    """4 heads of 12 plain and 4 rotary elements and values of 8, from latents of 24 and 16."""

    latent = LatentAttention(heads=4, query_rank=24, kv_rank=16, plain_size=12, rotary_size=4, value_head_size=8)

    def test_latents_are_normalised_and_kept_for_the_projections_up(self) -> None:
        found = tensors("deepseek_v3", latent=self.latent)
        assert found.whole == (6 + 2) * (24 + 16) + 2 * 4

    def test_in_fp32_a_norm_reads_a_view_beside_the_rotary_elements(self) -> None:
        found = tensors("deepseek_v3", latent=self.latent, compute="fp32")
        assert found.whole == (8 + 4) * (24 + 16) + 2 * 4 + 4 * 4

    def test_values_lie_beside_the_plain_elements_of_keys(self) -> None:
        found = tensors("deepseek_v3", latent=self.latent)
        assert found.split == 2 * (4 * 16 + 4 * 16 + 4 * (12 + 8) + 4 * 8) + LOG_SUMS
