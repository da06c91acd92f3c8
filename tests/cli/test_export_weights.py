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
    for size in ("0GB", "-1GB", "1e400GB", "infGB", "nan", "5", "5GiB", ""):
        assert_one_line(command("export-weights", run, *to, "--max-shard-size", size), f"'{size}' is no size above 0")
    for place in (run / "exported", run / "checkpoints" / "step-000099"):
        assert_one_line(command("export-weights", run, "--to", place), "lies in the folder of the run")
    assert not (tmp_path / "to").exists()


def test_mistakes_in_options_of_a_run_give_one_line(command: Command, tmp_path: Path) -> None:
    write_plan_file(tmp_path / "plan.json", ONE)
    start = ("run", tmp_path / "plan.json", "--out", tmp_path / "out")
    assert_one_line(command(*start, "--init-from", tmp_path / "none"), "no such folder; give one with config.json")
    text_file(tmp_path)
    data = ("--data", tmp_path / "text.txt")
    assert_one_line(command(*start, *data, "--tokenizer", tmp_path), "holds no tokenizer")
    assert_one_line(command(*start, *data, "--data-format", "chat"), "'chat' needs a tokenizer")
    half = ("--data", f"{tmp_path}/text.txt:0.5")
    assert_one_line(command(*start, *data, *half), "text.txt has no weight above 0, and others have one")
    assert_one_line(command(*start, *half, "--data", f"{tmp_path}/text.txt:-1"), "text.txt:-1 has no weight above 0")
    assert_one_line(command(*start, "--data", ""), "--data '' names no file or folder")
    assert_one_line(command(*start, *half, "--data", ":0.5"), "--data ':0.5' names no file or folder")
    (tmp_path / "empty.txt").touch()
    held_back = ("--eval-data", tmp_path / "empty.txt", "--eval-every", "2")
    assert_one_line(command(*start, *data, *held_back), "empty.txt holds 1 token and one sequence")
    mixed = ("--data", f"{tmp_path}/text.txt:1e-1", "--data", f"{tmp_path}/empty.txt:.9")
    assert_one_line(command(*start, *mixed), "empty.txt holds 1 token and one sequence")
    assert_one_line(command(*start, *data, "--every-minutes", "0"), "'every_minutes' is 0.0")
    assert not (tmp_path / "out").exists()
