"""The named stacks: what a name gives, and what a wrong one says."""

import pytest

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.stacks import OWN_STACK, named_stack, stack_names
from shardwright.costmodel.training import TrainingSpec


@pytest.mark.parametrize("name", stack_names())
def test_a_stack_has_the_name_it_is_found_by(name: str) -> None:
    assert named_stack(name).name == name
    assert TrainingSpec(seq_len=8, global_batch=1, stack=name).software is named_stack(name)


def test_no_two_stacks_are_the_same() -> None:
    kept = {repr(named_stack(name).model_dump(exclude={"name", "about"})) for name in stack_names()}
    assert len(kept) == len(stack_names())


def test_the_projects_own_is_the_default() -> None:
    assert TrainingSpec(seq_len=8, global_batch=1).stack == OWN_STACK
    assert OWN_STACK in stack_names()


@pytest.mark.parametrize(
    ("given", "meant"), [("megatron_core", "megatron-core"), ("torchtitn", "torchtitan"), ("Nanotron", "nanotron")]
)
def test_an_unknown_stack_is_one_line_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(SpecError) as refused:
        named_stack(given)
    line = str(refused.value)
    assert line.startswith(f"stack '{given}' is not known; allowed: ")
    assert line.endswith(f" Did you mean '{meant}'?")
    assert "\n" not in line
    for name in stack_names():
        assert name in line


def test_a_training_file_with_an_unknown_stack_says_the_same() -> None:
    with pytest.raises(SpecError, match=r"stack 'megatron' is not known.* Did you mean 'megatron-lm'") as refused:
        TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "stack": "megatron"}, source="training.toml")
    assert "\n" not in str(refused.value)
