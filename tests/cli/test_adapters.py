"""Adapters from the command line: planned, trained on two ranks, and exported for PEFT."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.executor.runs import text_file
from tests.parity.families import FAMILIES

from .command import Command, assert_one_line

JOB = ("--cluster", "rtx-4090:2", "--seq-len", "64", "--global-batch", "4", "--trainable", "lora:r=4")
STEPS = ("--steps", "2", "--checkpoint-every", "2", "--ranks", "2")


@pytest.mark.usefixtures("forked_ranks")
def test_plan_then_run_then_export(command: Command, tmp_path: Path) -> None:
    config = FAMILIES["qwen3"] | {"vocab_size": 320, "pad_token_id": None}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    path, run, data = tmp_path / "plan.json", tmp_path / "run", text_file(tmp_path)
    planned = command("plan", tmp_path / "model/config.json", *JOB, "--precision", "fp32", "--out", path)
    assert planned.code == 0, planned.err
    assert "refuses" not in planned.out
    started = command("run", path, "--out", run, "--data", data, "--lora-alpha", "8", *STEPS)
    assert started.code == 0, started.err
    exported = command("export-adapters", run, "--to", tmp_path / "peft", "--base-model", "my/model")
    assert exported.code == 0, exported.err
    assert "step-000002" in exported.out

    loaded: Any = peft.PeftModel.from_pretrained(
        Qwen3ForCausalLM(Qwen3Config(**config)), tmp_path / "peft", is_trainable=True
    )
    again = {name: value for name, value in loaded.named_parameters() if value.requires_grad}
    assert len(again) == 2 * 2 * 7  # layers x matrices x linears
    assert all(value.abs().sum() > 0 for value in again.values()), "two steps change every B"
    assert loaded.peft_config["default"].lora_alpha == 8
    assert loaded.peft_config["default"].base_model_name_or_path == "my/model"

    further = command(
        "run", path, "--out", tmp_path / "two", "--data", data, "--adapters-from", tmp_path / "peft", *STEPS
    )
    assert further.code == 0, further.err
    assert_one_line(command("export-adapters", run, "--to", tmp_path / "peft"), "is not empty; give a new folder")
    assert_one_line(
        command("export-adapters", run, "--to", tmp_path / "x", "--step", "7"),
        "no checkpoint after step 7; give --step 2",
    )
    assert_one_line(command("export-adapters", run, "--to", run / "x"), "lies in the folder of the run")
    assert_one_line(command("export-adapters", tmp_path / "model", "--to", tmp_path / "x"), "holds no run")
    assert_one_line(
        command("run", path, "--out", run, "--data", data, "--lora-alpha", "2", "--steps", "3"),
        "another start of its adapters",
    )


def test_the_smallest_useful_job_is_planned_and_accepted(command: Command, tmp_path: Path) -> None:
    job = ("--cluster", "rtx-4090:1", "--trainable", "lora", "--seq-len", "4096", "--global-batch", "16")
    planned = command("plan", "qwen3-8b", *job, "--out", tmp_path / "plan.json")
    assert planned.code == 0, planned.err
    assert planned.out.endswith(" --init-from WEIGHTS\n")
