"""What is trained, as text and back."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_model


@pytest.mark.parametrize(
    "text",
    [
        "all",
        "lora:r=16,targets=attention",
        "qlora:r=8,targets=q_proj+v_proj,dropout=yes",
        "lora:r=64,targets=all-linear,base=int8",
        "lora:r=64,targets=mlp,base=gptq",
        "layers:4",
        "layers:0+head",
    ],
)
def test_text_is_read_and_printed(text: str) -> None:
    found = Trainable.model_validate(text)
    assert str(found) == text
    assert Trainable.model_validate_json(found.model_dump_json()) == found


def test_qlora_is_nf4_on_every_linear() -> None:
    found = Trainable.model_validate("qlora")
    assert (found.base, found.rank, found.targets) == ("nf4", 16, ("all-linear",))
    assert found.adapts("down_proj")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lara:r=16", r"'lara:r=16' is not known; allowed: all, lora:.* Did you mean 'lora'"),
        ("lora:rank=16", r"'rank=16' of adapters is not known; allowed: r, targets, base, dropout"),
        ("lora:r=many", r"rank 'many' is no whole number; give r=16"),
        ("lora:r=0", r"rank 0 of adapters is not from 1 to"),
        ("lora:targets=q_prj", r"target 'q_prj' is not known; allowed: attention, .* Did you mean 'q_proj'"),
        ("lora:base=int9", r"base 'int9' is not known; allowed: 16bit, int8, nf4, gptq. Did you mean 'int8'"),
        ("layers:x", r"'layers:x' names no number of layers; give layers:4"),
        ("layers:0", r"layers:0 trains nothing"),
        ("all:4", r"'all' has no options, not '4'"),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "trainable": text}, source="training options")
    assert "\n" not in str(refused.value)


def test_the_rest_keeps_its_format() -> None:
    with pytest.raises(SpecError, match="keeps frozen weights in nf4"):
        TrainingSpec.parse(
            {"seq_len": 8, "global_batch": 1, "trainable": "qlora", "precision": {"linear": "fp8"}}, source="test"
        )


class TestFrozenLayers:
    model: ModelSpec = tiny_model(layers=5, classes=2)

    def test_layers_below_the_last_are_classes_of_their_own(self) -> None:
        found = self.model.trained_as(Trainable.model_validate("layers:2"))
        assert [found.layer_classes[kind].frozen for kind in found.class_of_layer] == [True, True, True, False, False]
        assert found.parameter_count == self.model.parameter_count
        assert found.trained_as(Trainable.model_validate("layers:2")).blocks == found.blocks

    def test_adapters_leave_the_model(self) -> None:
        assert self.model.trained_as(Trainable.model_validate("lora")) is self.model

    def test_more_layers_than_there_are(self) -> None:
        with pytest.raises(SpecError, match="give at most layers:5"):
            self.model.trained_as(Trainable.model_validate("layers:6"))

    def test_the_head_of_a_tied_model_is_its_embedding(self) -> None:
        with pytest.raises(SpecError, match="is its embedding, below every layer"):
            tiny_model(layers=2, tied=True).trained_as(Trainable.model_validate("layers:1+head"))
