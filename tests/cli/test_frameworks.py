"""`export`, `import` and `diagnose` as a user calls them."""

import json
from pathlib import Path

import pytest

from shardwright.costmodel import read_plan_file
from shardwright.exports import TARGETS
from shardwright.exports.choices import canonical
from tests.cli.command import JOB, Command, assert_one_line
from tests.exports import setups


@pytest.fixture(scope="module")
def megatron_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for Megatron-Core with a pipeline."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    with pytest.MonkeyPatch.context() as patch:
        from shardwright.cli import main

        job = ("llama-3.2-1b", *JOB, "--stack", "megatron-core-0.15", "--pp", "2", "--out", str(path))
        patch.setattr("sys.argv", ["shardwright", "plan", *job])
        with pytest.raises(SystemExit):
            main()
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back(command: Command, megatron_plan: Path, tmp_path: Path, target: str) -> None:
    """What is written is read as the plan that `export` says it wrote."""
    file, back = tmp_path / f"setup{TARGETS[target].suffix}", tmp_path / "back.json"
    wrote = command("export", megatron_plan, "--to", target, "--closest", "--out", file, "--json")
    assert wrote.code == 0, wrote.err
    written = tmp_path / "written.json"
    written.write_text(json.dumps(wrote.json()["plan_file"]))
    read = command("import", file, "--like", written, "--out", back, "--from", target)
    assert read.code == 0, read.err
    assert read_plan_file(back).plan == read_plan_file(written).plan
    if not wrote.json()["lost"]:
        assert read_plan_file(back).plan == canonical(read_plan_file(megatron_plan).plan)


@pytest.mark.parametrize("kind", ["slurm", "k8s"])
def test_scripts_run_the_plan_and_are_read_as_it(command: Command, plan_path: Path, tmp_path: Path, kind: str) -> None:
    script, back = tmp_path / "job", tmp_path / "back.json"
    wrote = command("export", plan_path, "--to", kind, "--out", script)
    assert wrote.code == 0, wrote.err
    assert str(plan_path) in script.read_text()
    read = command("import", script, "--out", back)
    assert read.code == 0, read.err
    assert read_plan_file(back).plan == read_plan_file(plan_path).plan


def test_an_export_is_printed_alone_and_the_notes_go_to_stderr(command: Command, plan_path: Path) -> None:
    printed = command("export", plan_path, "--to", "nemo", "--closest")
    assert printed.code == 0, printed.err
    assert printed.out.startswith("# Megatron Bridge 0.3.1")
    assert "note: planned for stack shardwright; on nemo this plan is predicted to take" in printed.err


def test_what_a_target_lacks_is_one_line(command: Command, megatron_plan: Path) -> None:
    assert_one_line(
        command("export", megatron_plan, "--to", "deepspeed"), "cannot express pp 2", "--closest writes pp 1"
    )
    assert_one_line(
        command("export", megatron_plan, "--to", "megatorn"), "target 'megatorn'", "Did you mean 'megatron'?"
    )
    assert_one_line(command("export", megatron_plan, "--to", "slurm"), "the plan is for stack 'megatron-core-0.15'")
    told = command("export", megatron_plan, "--to", "deepspeed", "--closest")
    assert "instead of pp 2" in told.err
    assert "the step is predicted to take" in told.err


def test_an_import_names_what_is_missing(command: Command, tmp_path: Path) -> None:
    script, config = tmp_path / "run.sh", tmp_path / "ds.json"
    script.write_text(setups.MEGATRON_DENSE)
    config.write_text(setups.DEEPSPEED_ZERO3)
    assert_one_line(command("import", script), "say which cluster it runs on; give --cluster")
    assert_one_line(
        command("import", config, "--cluster", "h100-sxm:16"), "does not say which model it trains; give --model"
    )
    assert_one_line(command("import", tmp_path / "none.sh", "--cluster", "h100-sxm:16"), "none.sh")
    read = command("import", script, "--cluster", "h100-sxm:16", "--json")
    assert read.code == 0, read.err
    assert read.json()["plan_file"]["plan"]["mesh"]["tp"] == 2
    assert "note: stack megatron-core-0.15 is predicted with --overlap-grad-reduce, --overlap-param-gather" in read.err


def test_a_diagnosis_in_words_and_as_json(command: Command, tmp_path: Path) -> None:
    script, best = tmp_path / "run.sh", tmp_path / "best.json"
    script.write_text(setups.MEGATRON_DENSE)
    told = command("diagnose", script, "--cluster", "h100-sxm:16", "--out", best)
    assert told.code == 0, told.err
    assert "1. " in told.out
    assert "tokens/s" in told.out
    assert read_plan_file(best).training.stack == "megatron-core-0.15"
    config = tmp_path / "ds.json"
    config.write_text(setups.DEEPSPEED_ZERO3)
    job = ("--cluster", "h200-sxm:8", "--model", "llama-3.1-8b", "--seq-len", "4096")
    found = command("diagnose", config, *job, "--out", best, "--force", "--json").json()
    assert len(found["changes"]) <= 3
    assert found["infeasible"] is None
    assert found["best"]["gain"] > 0
    assert found["best"]["plan_file"]["plan"] == json.loads(best.read_text())["plan"]


def test_damaged_files_are_one_line(command: Command, tmp_path: Path) -> None:
    for name, text in (
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.toml", "[a"),
        ("a.yaml", "a: [1"),
        ("a.yaml", "- 1"),
        ("a.sh", ""),
        ("a.json", '{"zero_optimization": 3}'),
        ("a.toml", "parallelism = 3\n[model]\nname = 'llama3'\nflavor = '8B'"),
    ):
        file = tmp_path / name
        file.write_text(text)
        job = ("--cluster", "h100-sxm:8", "--model", "llama-3.2-1b", "--seq-len", "1024", "--global-batch", "16")
        assert_one_line(command("import", file, *job), name)
