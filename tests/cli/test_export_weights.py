"""`export-weights`, and the options of `run` that name weights, tokenizers and mixtures."""

from pathlib import Path

import pytest

from shardwright.costmodel import write_plan_file
from shardwright.executor.training.run_folder import RunFolder, RunIdentity
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

from .command import Command, assert_one_line

ONE = tiny(plan((layers(),)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    given = options(folder / "run", data=text_file(folder), steps=1)
    RunFolder(given.out).prepare(ONE, given, RunIdentity(plan_digest="", data_digest="", seed=0))
    losses(ONE, given)
    return given.out


def test_it_says_what_it_writes(command: Command, run: Path, tmp_path: Path) -> None:
    result = command("export-weights", run, "--to", tmp_path / "to", "--dtype", "bf16")
    assert result.code == 0, result.err
    first, last = result.out.splitlines()
    assert first.startswith("model.safetensors: 21 of 21 tensors, ")
    assert last == f"{tmp_path}/to: tiny-llama after step 1, in bf16"
    found = command("export-weights", run, "--to", tmp_path / "again", "--json").json()
    assert found == {"folder": str(tmp_path / "again"), "files": ["config.json", "model.safetensors"]}


def test_mistakes_give_one_line(command: Command, run: Path, tmp_path: Path) -> None:
    to = ("--to", tmp_path / "to")
    assert_one_line(command("export-weights", tmp_path / "none", *to), "is no folder of a run")
    assert_one_line(command("export-weights", run, *to, "--dtype", "int8"), "'dtype' is 'int8'", "'bf16'")
    assert_one_line(
        command("export-weights", run, *to, "--step", "7"), "holds no checkpoint after step 7; give --step 1"
    )
    assert_one_line(command("export-weights", run), "--to")
    assert not (tmp_path / "to").exists()


def test_mistakes_in_options_of_a_run_give_one_line(command: Command, tmp_path: Path) -> None:
    write_plan_file(tmp_path / "plan.json", ONE)
    start = ("run", tmp_path / "plan.json", "--out", tmp_path / "out")
    assert_one_line(command(*start, "--init-from", tmp_path / "none"), "no such folder; give one with config.json")
    text_file(tmp_path)
    data = ("--data", tmp_path / "text.txt")
    assert_one_line(command(*start, *data, "--tokenizer", tmp_path), "holds no tokenizer")
    assert_one_line(command(*start, *data, "--data-format", "chat"), "'chat' needs a tokenizer")
    assert_one_line(command(*start, *data, "--data", f"{tmp_path}/text.txt:0.5"), "1 of 2 --data have a weight")
    assert not (tmp_path / "out").exists()
