"""Optimizers by name and settings, as text and as fields."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.specs.optimizers import OPTIMIZER_STATES, QUALITY, Optimizer
from shardwright.specs.training import TrainingSpec


def training(optimizer: str, **given: object) -> TrainingSpec:
    return TrainingSpec.parse({"seq_len": 1, "global_batch": 1, "optimizer": optimizer, **given}, source="job")


@pytest.mark.parametrize(
    "text", ["adamw", "sgd:momentum=0.9", "galore:rank=1024,period=50", "frugal:bits=8", "muon:steps=6"]
)
def test_a_text_is_read_and_printed_the_same(text: str) -> None:
    assert str(training(text).method) == text
    assert TrainingSpec.parse(training(text).model_dump(mode="json"), source="file") == training(text)


def test_a_file_without_settings_means_what_it_meant() -> None:
    assert training("sgd").method["momentum"] == 0
    assert str(training("galore:rank=128,period=200").method) == "galore"  # its own defaults
    assert {name for name in OPTIMIZER_STATES if Optimizer(name=name).may_leave_device} == {"adamw", "sgd"}


@pytest.mark.parametrize(
    ("optimizer", "given", "words"),
    [
        ("muno", {}, "'muno' is not known.*Did you mean 'muon'"),
        ("galore:rnk=3", {}, "'rnk=3' of optimizer galore.*Did you mean 'rank'"),
        ("adamw:rank=3", {}, "it has none"),
        ("galore:rank=x", {}, "rank 'x' of the optimizer is no number"),
        ("galore:bits=4", {}, "bits.*8 or 32"),
        ("sgd:momentum=1", {}, "momentum.*less than 1"),
        ("muon", {"optimizer_settings": {"rank": 3}}, "muon has no setting 'rank'"),
        ("muon:steps=3", {"optimizer_settings": {"steps": 3}}, "give one of them"),
        ("muon", {"trainable": "lora:r=16,targets=attention"}, "whole matrices.*or trainable all"),
    ],
)
def test_a_wrong_one_is_one_line(optimizer: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        training(optimizer, **given)
    assert "\n" not in str(caught.value)


def test_what_the_planner_may_propose_says_what_is_known_of_it() -> None:
    assert all("arXiv" in said for said in QUALITY.values())
