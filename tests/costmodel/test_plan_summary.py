"""A plan file in a few lines."""

from pathlib import Path

import pytest

import shardwright as sw
from shardwright.costmodel.plan_file import load_plan, write_plan_file
from tests.parity.cases import layers, model_config, plan, plan_file

PLAN = plan_file(
    model_config("llama"), plan((layers(1, zero=3),), (layers(1, zero=3, recompute="full"),), pp=2, dp_shard=2)
)


def test_the_summary_says_choices_and_predictions(tmp_path: Path) -> None:
    write_plan_file(tmp_path / "plan.json", PLAN)
    read = load_plan(str(tmp_path / "plan.json"))
    assert read == sw.load_plan(tmp_path / "plan.json") == PLAN
    lines = read.summary().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "tiny-llama (21.9 k parameters) on this-machine, batch 8 x 16 tokens"
    assert " ".join(map(str.strip, lines[1:3])) == (
        "plan      pp2 x dp_shard2, ZeRO-3, 1f1b, 2 microbatches of 2 sequences, full recompute in 1 of 2 layers, "
        "optimizer on the device"
    )
    text = " ".join(read.summary().split())
    estimate = read.estimated()
    assert f"MFU {100 * estimate.mfu:.1f}%" in text
    assert {line.split("  ")[0] for line in lines if not line.startswith(" ")} >= {"step", "memory", "bound by"}


@pytest.mark.parametrize(("choice", "what"), [("sequence_chunks", "layers"), ("mlp_tiles", "feed-forwards")])
def test_pieces_of_the_sequence_are_said(choice: str, what: str) -> None:
    """As no line of recompute says that they run again."""
    plain = plan_file(model_config("llama"), plan((layers(),)))
    given = plain.model_copy(update={"training": plain.training.model_copy(update={choice: 4})})
    assert f"pieces    {what} in 4 pieces of the sequence, each run again" in " ".join(given.summary().split("\n"))
    assert "pieces" not in plain.summary()


def test_a_stated_estimate_is_kept() -> None:
    estimate = PLAN.estimated()
    slower = estimate.model_copy(update={"tokens_per_s": 123456.0})
    assert "123,456 tokens/s" in PLAN.model_copy(update={"estimate": slower}).summary()
