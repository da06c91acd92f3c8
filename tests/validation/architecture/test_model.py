"""The model that a row means, against the parameter counts that rows state."""

from importlib import resources
from pathlib import Path

import pytest

from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.validation.architecture.model import model_of_row
from shardwright.validation.table.table import SkippedRowError, read_table
from tests.validation.made_up_rows import row

NO_SIZES = dict.fromkeys(
    ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab", "params_b", "tied_embeddings")
)
PUBLISHED = Path(str(resources.files("shardwright.calibration") / "published" / "training.csv"))


def test_every_mpt_row_has_the_stated_parameters_to_its_last_digit() -> None:
    rows = [given for given in read_table(PUBLISHED) if given.model and given.model.startswith("MPT")]
    assert len(rows) == 216
    for given in rows:
        model, _ = model_of_row(given)
        assert given.params_b is not None
        assert model.parameter_count == pytest.approx(1e9 * given.params_b, rel=5e-6), given.id


def test_every_other_row_is_near_its_stated_parameters() -> None:
    seen = 0
    for given in read_table(PUBLISHED):
        try:
            model, assumptions = model_of_row(given)
        except SkippedRowError:
            continue
        if given.params_b is not None and "architecture of the public model of that name" not in assumptions:
            seen += 1
            assert model.parameter_count == pytest.approx(1e9 * given.params_b, rel=0.035), given.id
    assert seen > 480


def test_a_llama_is_gated_without_biases() -> None:
    model, assumptions = model_of_row(row())
    ffn = model.blocks[0].block.ffn
    assert isinstance(ffn, FeedForward)
    assert ffn.gated
    assert model.parameter_count == 13_015_864_320  # Llama-2-13B as published
    assert assumptions == []


def test_a_public_model_without_sizes_is_its_preset_and_says_so() -> None:
    model, assumptions = model_of_row(row(model="Llama 3.2 3B", **NO_SIZES))
    assert model.parameter_count == 3_212_749_824
    assert assumptions == ["architecture of the preset of that name"]


def test_a_family_that_nobody_knows_is_read_as_gated_and_says_so() -> None:
    model, assumptions = model_of_row(row(model="Zebra-13B", params_b=None))
    assert model.parameter_count == 13_015_864_320
    assert assumptions == ["family unknown: gated feed-forward, no biases"]


def test_an_unknown_family_has_the_gate_that_its_parameter_count_asks_for() -> None:
    """Two matmuls of 40 layers of 5120 x 13824 in place of three are 2.83 billion weights fewer."""
    model, assumptions = model_of_row(row(model="Zebra-10B", params_b=10.2))
    ffn = model.blocks[0].block.ffn
    assert isinstance(ffn, FeedForward)
    assert not ffn.gated
    assert model.parameter_count == pytest.approx(10.19e9, rel=0.001)
    assert assumptions == ["family unknown: plain feed-forward, which comes nearest to the parameter count; no biases"]


def test_layers_come_from_the_parameter_count() -> None:
    """13.016e9 = 2 x 32000 x 5120 for the ends + 40 x 317.2e6."""
    model, assumptions = model_of_row(row(model="Llama-like-13B", layers=None))
    assert model.layer_count == 40
    assert assumptions == ["layers from the parameter count"]


def test_a_public_model_that_is_no_preset_has_its_published_sizes() -> None:
    """Nemotron-4-15B (arXiv 2402.16819): 12.5e9 without and 3.1e9 with embeddings; its feed-forward has no gate."""
    model, assumptions = model_of_row(row(**NO_SIZES | {"model": "Nemotron-4-15B"}))
    ffn = model.blocks[0].block.ffn
    assert isinstance(ffn, FeedForward)
    assert not ffn.gated
    assert not model.tied_embeddings
    assert model.parameter_count - 2 * 256_000 * 6144 == pytest.approx(12.5e9, rel=0.01)
    assert assumptions == ["architecture of the public model of that name"]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("GPT-2 8.3B", 8.3),
        ("Turing-NLG 17B", 17.0),
        ("GPT-22B", 22.0),
        ("GPT-J-6B", 6.05),
        ("CodeLlama-34B", 33.7),
        ("SmolLM2-1.7B", 1.71),
        ("OLMo-2-13B", 13.7),
        ("StarCoder-15B", 15.5),
        ("DeepSeek-67B", 67.4),
        ("DeepSeek-MoE-16B", 16.4),
        ("OLMoE-1B-7B", 6.9),
        ("DBRX", 132.0),
        ("Mistral-Large-123B", 123.0),
        ("ChatGLM3-6B", 6.24),
    ],
)
def test_public_sizes_give_the_published_number_of_parameters(name: str, billions: float) -> None:
    model, _ = model_of_row(row(**NO_SIZES | {"model": name, "seq_len": 1024}))
    assert model.parameter_count == pytest.approx(1e9 * billions, rel=0.035)


def test_a_run_longer_than_the_learned_positions_had_as_many() -> None:
    model, assumptions = model_of_row(row(**NO_SIZES | {"model": "GPT3-13B", "seq_len": 8192}))
    assert model.positions == 8192
    assert assumptions == ["architecture of the preset of that name", "learned positions for the row's length"]
    shorter, _ = model_of_row(row(**NO_SIZES | {"model": "GPT3-13B", "seq_len": 1024}))
    assert shorter.positions == 2048


def test_a_namesake_of_other_sizes_is_no_public_model() -> None:
    with pytest.raises(SkippedRowError, match="architecture unknown"):
        model_of_row(row(**NO_SIZES | {"model": "Nemotron-4-15B", "hidden": 4096}))


def test_experts_in_every_second_layer_and_a_shared_one() -> None:
    """Llama 4 Maverick: 400e9 parameters, 24 of 48 layers with 128 experts and a shared one."""
    model, _ = model_of_row(row(**NO_SIZES | {"model": "Llama-4-Maverick-400B"}))
    experts = [block.ffn for run in model.blocks for block in [run.block] if isinstance(block.ffn, MixtureOfExperts)]
    assert len(experts) == 24
    assert {(ffn.experts, ffn.top_k, ffn.shared_width) for ffn in experts} == {(128, 1, 8192)}
    assert model.parameter_count == pytest.approx(400e9, rel=0.01)


def test_the_parameter_count_decides_which_layers_have_experts() -> None:
    """16 experts of 5120 x 1024 x 3 and an attention of 4 x 5120^2 in all of 40 layers are 14.6e9; in half, beside dense
    layers of 13824, 13.8e9."""
    stated = {"model": "Some-MoE", "experts": 16, "topk": 2, "moe_ffn": 1024}
    every, _ = model_of_row(row(**stated, params_b=14.6))
    second, assumptions = model_of_row(row(**stated, params_b=13.8))
    assert (len(every.blocks), len(second.blocks)) == (1, 40)
    assert "experts in every second layer, which comes nearest to the parameter count" in assumptions


def test_a_head_size_that_is_not_hidden_over_heads_comes_from_the_preset() -> None:
    sizes = {"layers": 64, "hidden": 5120, "heads": 64, "kv_heads": 8, "ffn_hidden": 25600, "vocab": 151936}
    model, _ = model_of_row(row(model="Qwen3-32B", params_b=32.8, **sizes))
    assert model.blocks[0].block.attention.head_size == 128


def test_tying_is_read_before_it_is_inferred() -> None:
    tied, _ = model_of_row(row(tied_embeddings=True))
    assert tied.tied_embeddings


@pytest.mark.parametrize(("params_b", "tied"), [(13.0, False), (12.85, True)])
def test_unknown_tying_is_whichever_lands_nearer_the_stated_count(params_b: float, tied: bool) -> None:
    model, _ = model_of_row(row(model="Llama-like-13B", tied_embeddings=None, params_b=params_b))
    assert model.tied_embeddings is tied


def test_a_gpt_without_vocabulary_gets_the_padded_one_and_says_so() -> None:
    gpt = row(model="GPT-5B", hidden=4096, heads=32, kv_heads=32, ffn_hidden=16384, vocab=None, params_b=None)
    model, assumptions = model_of_row(gpt)
    assert model.vocab_size == 51200
    assert assumptions == ["vocabulary of 51200 (GPT-2's, padded)"]


def test_unknown_kv_heads_are_an_assumption() -> None:
    model, assumptions = model_of_row(row(model="Llama-like-13B", kv_heads=None))
    assert model.blocks[0].block.attention.kv_heads == 40
    assert assumptions == ["as many key-value heads as heads"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"experts": 8}, "experts of a token"),
        ({"experts": 8, "topk": 9}, "experts of a token"),
        ({"model": "Zebra-8B", **NO_SIZES}, "architecture unknown"),
        ({"model": "Llama-like-13B", "hidden": None}, "architecture unknown"),
        ({"model": "Zebra-13B", "vocab": None}, "vocab unknown"),
        ({"model": "gpt-x", "seq_len": None}, "seq_len unknown"),
        ({"heads": 39}, "heads do not divide"),
        ({"kv_heads": 7}, "heads do not divide"),
    ],
)
def test_what_is_no_known_model_says_why(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        model_of_row(row(**changes))


def test_experts_as_the_row_states_them() -> None:
    stated = {"model": "Some-MoE", "params_b": None, "experts": 16, "topk": 4, "moe_ffn": 1024, "ffn_hidden": None}
    model, assumptions = model_of_row(row(**stated))
    ffn = model.layer_classes[0].ffn
    assert ffn == MixtureOfExperts(experts=16, top_k=4, expert_width=1024)
    assert "family unknown: gated feed-forward, no biases" in assumptions


def test_a_public_mixture_of_experts_is_its_preset() -> None:
    """Its name begins as a dense family's does; its windows, sinks and biases no column states."""
    model, _ = model_of_row(row(**{"model": "GPT-OSS 20B", "params_b": None, **NO_SIZES, "experts": 32, "topk": 4}))
    assert any(block.attention.window for block in model.layer_classes)
