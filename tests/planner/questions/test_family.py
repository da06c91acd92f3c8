"""Families of models: every preset scales, and the largest that fits is confirmed by trying every size."""

import pytest

from shardwright.base import InfeasibleError, SpecError
from shardwright.catalog.huggingface import load_model, model_from_config, preset_names
from shardwright.planner import search
from shardwright.planner.questions import Growth, largest_model, shapes, work_per_s
from shardwright.planner.questions.family import Family
from shardwright.specs import TrainingSpec
from shardwright.specs.model import MixtureOfExperts
from tests.planner.small_problems import tiny_cluster, tiny_model

_CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}
_MODEL = model_from_config(_CONFIG, name="small", source="test")
_TRAINING = TrainingSpec(seq_len=1024, global_batch=8)


HYBRIDS = ("bamba-9b", "minimax-text-01", "nemotron-3-nano-30b-a3b", "nemotron-h-8b", "qwen3-next-80b-a3b")


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_have_no_one_width(name: str) -> None:
    with pytest.raises(SpecError, match=f"model {name} has layers with several numbers of heads.*; ask about a model"):
        Family.of(load_model(name))


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in HYBRIDS])
def test_every_preset_is_a_member_of_its_family_and_doubles(name: str) -> None:
    model = load_model(name)
    family = Family.of(model)
    same = family.member(family.heads, model.layer_count)
    assert same.blocks == model.blocks
    assert same.parameter_count == model.parameter_count
    wide = family.member(2 * family.heads, model.layer_count)
    assert wide.hidden_size == 2 * model.hidden_size
    first, wider = model.layer_classes[0].attention, wide.layer_classes[0].attention
    assert (wider.heads, wider.head_size) == (2 * first.heads, first.head_size)
    assert wider.kv_heads == (2 * first.kv_heads if first.kv_heads == first.heads else first.kv_heads)
    deep = family.member(family.heads, 2 * model.layer_count)
    assert deep.layer_count == 2 * model.layer_count
    assert deep.hidden_size == model.hidden_size


def test_experts_stay_and_widen() -> None:
    family = Family.of(load_model("mixtral-8x7b"))
    ffn = family.member(2 * family.heads, 32).layer_classes[0].ffn
    assert isinstance(ffn, MixtureOfExperts)
    assert (ffn.experts, ffn.top_k, ffn.expert_width) == (8, 2, 2 * 14336)


def test_kinds_of_layers_go_on_in_turn() -> None:
    family = Family.of(load_model("gpt-oss-20b"))
    assert family.member(family.heads, 28).config["layer_types"][24:] == ["sliding_attention", "full_attention"] * 2


def test_heads_come_in_multiples_that_tensor_parallelism_divides() -> None:
    assert Family.of(load_model("llama-3.1-8b")).head_unit == 8
    assert Family.of(load_model("gpt3-175b")).head_unit == 8


def test_a_model_without_a_configuration() -> None:
    with pytest.raises(SpecError, match="model tiny has no Hugging Face configuration to scale"):
        largest_model(tiny_model(layers=2), tiny_cluster(devices=2), _TRAINING)


def test_a_configuration_that_leaves_the_feed_forward_out() -> None:
    config = {key: value for key, value in _CONFIG.items() if key != "intermediate_size"}
    with pytest.raises(SpecError, match="add the key 'intermediate_size': 11008"):
        Family.of(model_from_config(config, name="short", source="test")).member(16, 4)


@pytest.mark.parametrize("by", ["both", "depth", "width"])
@pytest.mark.parametrize("memory_bytes", [1.5e9, 2e9])
def test_largest_model_against_every_size(by: Growth, memory_bytes: float) -> None:
    cluster = tiny_cluster(devices=4, memory_bytes=memory_bytes, host_bytes=1e8)
    wide = {"hidden_size": 1024, "intermediate_size": 4096} if by == "depth" else {}
    model = model_from_config(_CONFIG | wide, name="small", source="test")
    found = largest_model(model, cluster, _TRAINING, by=by)
    family = Family.of(model)

    def fits(units: int) -> bool:
        heads = family.heads if by == "depth" else units * family.head_unit
        layers = units * 4 if by in ("depth", "both") else 4  # 8 heads beside 4 layers are one unit each
        try:
            search(family.member(heads, layers), cluster, _TRAINING, runners_up=0, explain_none="nothing")
        except (SpecError, InfeasibleError):
            return False
        return True

    every = [units for units in range(1, found.best.value + 6) if fits(units)]
    assert found.best.value == every[-1]
    assert found.next_value == found.best.value + 1
    assert found.best.model.config["num_hidden_layers"] == found.best.model.layer_count


def test_growth_that_is_not_known() -> None:
    with pytest.raises(SpecError, match=r"give one of both, depth, width\. Did you mean 'depth'\?"):
        largest_model(_MODEL, tiny_cluster(devices=2), _TRAINING, by="dept")  # type: ignore[arg-type]


class TestShapes:
    found = shapes(load_model("qwen3-0.6b"), tiny_cluster(devices=8), TrainingSpec(seq_len=1024, global_batch=32))

    def test_parameters_are_nearly_equal(self) -> None:
        assert len(self.found.cases) >= 3
        for case in self.found.cases:
            assert case.model.parameter_count == pytest.approx(load_model("qwen3-0.6b").parameter_count, rel=0.05)

    def test_the_model_itself_is_among_them(self) -> None:
        assert self.found.given is not None
        assert self.found.given.model.blocks == load_model("qwen3-0.6b").blocks

    def test_the_fastest_does_most_work_a_second(self) -> None:
        best = self.found.fastest
        again = search(best.model, best.cluster, best.training, runners_up=0)
        assert again.estimate == best.estimate
        assert work_per_s(best) == max(map(work_per_s, self.found.cases))
        assert work_per_s(best) == best.model.active_parameter_count * best.estimate.tokens_per_s

    def test_none_fits(self) -> None:
        with pytest.raises(InfeasibleError, match="no plan fits"):
            shapes(_MODEL, tiny_cluster(devices=1, memory_bytes=2e8, host_bytes=1e7), _TRAINING)
