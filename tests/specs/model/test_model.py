"""The model counted by hand: small enough to check with a pencil."""

import pytest
from pydantic import ValidationError

from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.model.norm import Norm
from shardwright.specs.model.parameter import Parameter

ATTENTION = MultiHeadAttention(heads=4, kv_heads=2, head_size=5)
DENSE = FeedForward(width=7, gated=True)
EXPERTS = MixtureOfExperts(experts=8, top_k=2, expert_width=3, shared_width=6)


def total(parameters: list[Parameter]) -> int:
    return sum(p.elements for p in parameters)


def model(*runs: BlockRun, tied: bool = False) -> ModelSpec:
    return ModelSpec(name="m", family="llama", hidden_size=10, vocab_size=100, blocks=runs, tied_embeddings=tied)


class TestAttention:
    def test_grouped_queries(self) -> None:
        assert total(ATTENTION.parameters(10)) == 10 * (20 + 10 + 10) + 20 * 10

    def test_biases_norms_and_sinks(self) -> None:
        attention = MultiHeadAttention(
            heads=4, kv_heads=2, head_size=5, qkv_bias=True, output_bias=True, qk_norm="per_head", sinks=True
        )
        extra = {p.name: p.elements for p in attention.parameters(10)}
        assert extra["attention.qkv"] == 10 * 40 + 40
        assert extra["attention.output_bias"] == 10
        assert extra["attention.qk_norm"] == 5 + 5
        assert extra["attention.sinks"] == 4

    def test_norm_of_the_whole_projection(self) -> None:
        attention = MultiHeadAttention(heads=4, kv_heads=2, head_size=5, qk_norm="whole", qk_norm_bias=True)
        assert total(attention.parameters(10)) - total(ATTENTION.parameters(10)) == 2 * (20 + 10)

    def test_what_tensor_parallelism_divides(self) -> None:
        """Everything but what is added after the output is summed up, and what every head shares."""
        attention = MultiHeadAttention(
            heads=4, kv_heads=2, head_size=5, qkv_bias=True, output_bias=True, qk_norm="per_head", sinks=True
        )
        whole = {p.name for p in attention.parameters(10) if not p.split}
        assert whole == {"attention.output_bias", "attention.qk_norm"}

    def test_latent(self) -> None:
        latent = LatentAttention(heads=4, query_rank=6, kv_rank=5, plain_size=3, rotary_size=2, value_head_size=7)
        queries = 10 * 6 + 6 + 6 * 4 * (3 + 2)
        keys_and_values = 10 * (5 + 2) + 5 + 5 * 4 * (3 + 7)
        assert total(latent.parameters(10)) == queries + keys_and_values + 4 * 7 * 10

    def test_latent_with_queries_straight_from_the_hidden_state(self) -> None:
        latent = LatentAttention(heads=4, query_rank=None, kv_rank=5, plain_size=3, rotary_size=2, value_head_size=7)
        assert total(latent.parameters(10)) == 10 * 4 * 5 + 10 * (5 + 2) + 5 + 5 * 4 * (3 + 7) + 4 * 7 * 10

    def test_latents_are_whole_on_every_tensor_parallel_rank(self) -> None:
        latent = LatentAttention(heads=4, query_rank=6, kv_rank=5, plain_size=3, rotary_size=2, value_head_size=7)
        assert {p.name for p in latent.parameters(10) if p.elements and not p.split} == {
            "attention.query_down",
            "attention.kv_down",
        }

    def test_kv_heads_must_divide_heads(self) -> None:
        with pytest.raises(ValidationError, match="heads 4 must be a multiple of kv_heads 3"):
            MultiHeadAttention(heads=4, kv_heads=3, head_size=5)


class TestFeedForward:
    def test_gated_has_three_matrices_and_plain_two(self) -> None:
        assert total(DENSE.parameters(10)) == 3 * 7 * 10
        assert total(FeedForward(width=7, gated=False, bias=True).parameters(10)) == 2 * 7 * 10 + 7 + 10

    def test_experts(self) -> None:
        assert total(EXPERTS.parameters(10)) == 10 * 8 + 8 * 3 * 3 * 10 + 3 * 6 * 10

    def test_only_routed_experts_are_divided_among_expert_ranks(self) -> None:
        assert [p.name for p in EXPERTS.parameters(10) if p.expert] == ["ffn.experts"]

    def test_biases_of_experts_router_and_shared_expert(self) -> None:
        biased = EXPERTS.model_copy(
            update={"bias": True, "router_bias": True, "shared_bias": True, "shared_gate": True}
        )
        added = 8 * (6 + 10) + 8 + (12 + 10) + 10
        assert total(biased.parameters(10)) == total(EXPERTS.parameters(10)) + added

    def test_a_token_visits_no_more_experts_than_there_are(self) -> None:
        with pytest.raises(ValidationError, match="top_k 9 is more than the 8 experts"):
            MixtureOfExperts(experts=8, top_k=9, expert_width=3)


class TestModelSpec:
    BLOCK = Block(attention=ATTENTION, ffn=DENSE)
    SLIDING = Block(attention=ATTENTION.model_copy(update={"window": 4}), ffn=DENSE)
    BLOCK_SIZE = 600 + 210 + 2 * 10

    def test_counts_embedding_layers_final_norm_and_head(self) -> None:
        spec = model(BlockRun(count=3, block=self.BLOCK))
        assert spec.parameter_count == 1000 + 3 * self.BLOCK_SIZE + 10 + 1000

    def test_tied_head_is_counted_once_and_listed_at_both_ends(self) -> None:
        spec = model(BlockRun(count=3, block=self.BLOCK), tied=True)
        assert spec.parameter_count == 1000 + 3 * self.BLOCK_SIZE + 10
        assert total(spec.embedding_parameters()) == 1000
        assert total(spec.head_parameters()) == 10 + 1000

    def test_ends(self) -> None:
        spec = ModelSpec(
            name="m",
            family="opt",
            hidden_size=10,
            vocab_size=100,
            blocks=(BlockRun(count=1, block=self.BLOCK),),
            positions=6,
            position_padding=2,
            embedding_size=4,
            embedding_norm=True,
            head_bias=True,
            final_norm=None,
            tied_embeddings=True,
        )
        embedding = {p.name: p.elements for p in spec.embedding_parameters()}
        head = {p.name: p.elements for p in spec.head_parameters()}
        assert embedding == {
            "embedding.tokens": 400,
            "embedding.positions": 80,
            "embedding.projection": 40,
            "embedding.norm": 20,
        }
        assert head == {"head.projection": 40, "head.output": 400 + 100}
        assert spec.parameter_count == 540 + 540 - 400 + self.BLOCK_SIZE

    def test_what_a_model_lacks_is_not_listed(self) -> None:
        spec = model(BlockRun(count=1, block=self.BLOCK)).model_copy(update={"final_norm": None})
        assert [p.name for p in spec.embedding_parameters()] == ["embedding.tokens"]
        assert [p.name for p in spec.head_parameters()] == ["head.output"]

    def test_norms_without_weight_have_no_parameters(self) -> None:
        block = Block(attention=ATTENTION, ffn=DENSE, norm=Norm(kind="layernorm", weight=False))
        assert total(block.parameters(10)) == 600 + 210

    def test_layers_are_classed_by_their_block_wherever_they_stand(self) -> None:
        spec = model(
            BlockRun(count=2, block=self.SLIDING),
            BlockRun(count=1, block=self.BLOCK),
            BlockRun(count=2, block=self.SLIDING.model_copy()),
        )
        assert spec.layer_count == 5
        assert spec.layer_classes == (self.SLIDING, self.BLOCK)
        assert spec.class_of_layer == (0, 0, 1, 0, 0)

    def test_active_parameters_are_those_of_top_k_experts(self) -> None:
        sparse = Block(attention=ATTENTION, ffn=EXPERTS)
        spec = model(BlockRun(count=1, block=self.BLOCK), BlockRun(count=2, block=sparse))
        assert spec.parameter_count - spec.active_parameter_count == 2 * (8 - 2) * 3 * 3 * 10

    def test_equal_models_have_equal_hashes(self) -> None:
        """Also with a configuration, which is a dictionary, and after a cached count was asked for."""
        one = model(BlockRun(count=2, block=self.BLOCK)).model_copy(update={"config": {"a": [1]}})
        other = model(BlockRun(count=2, block=self.BLOCK)).model_copy(update={"config": {"a": [1]}})
        assert one.parameter_count
        assert one == other
        assert len({one, other}) == 1

    def test_embedding_as_wide_as_the_model_needs_no_projection(self) -> None:
        with pytest.raises(ValidationError, match="embedding_size 10 equals hidden_size"):
            ModelSpec(
                name="m",
                family="opt",
                hidden_size=10,
                vocab_size=100,
                blocks=(BlockRun(count=1, block=self.BLOCK),),
                embedding_size=10,
            )
