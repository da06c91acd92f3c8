"""`plan --phases`: a run whose sequences get longer, as a file of what changes."""

import json
from pathlib import Path

import pytest

from shardwright.costmodel.phases import read_phases_file
from tests.cli.command import JOB, Command, assert_one_line
from tests.parity.cases import model_config

SMALL = model_config("llama", layers=4, max_position_embeddings=2048)
TWO = """
[switching]
build_seconds = 20

[[phases]]
steps = 2000

[[phases]]
steps = 100
seq_len = "32k"
global_batch = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "phases.toml"
    path.write_text(TWO)
    return path


def test_phases_are_planned_printed_and_written(command: Command, file: Path, tmp_path: Path) -> None:
    result = command("plan", "llama-3.2-1b", *JOB, "--phases", file, "--out", tmp_path / "phases.json")
    assert result.code == 0, result
    assert "4 of 32,768" in result.out
    assert "2,100 steps take " in result.out
    assert f"train with it: shardwright run {tmp_path / 'phases.json'}" in result.out
    phases = read_phases_file(tmp_path / "phases.json")
    assert [
        (phase.steps, phase.plan_file.training.seq_len, phase.plan_file.plan.global_batch) for phase in phases.phases
    ] == [
        (2000, 1024, 16),
        (100, 32768, 4),
    ]
    assert phases.switching.build_seconds == 20
    again = command("plan", "llama-3.2-1b", *JOB, "--phases", file, "--json").json()
    assert again["phases_file"]["kind"] == "shardwright-phases"
    assert again["switches"][0] == {"kind": "none", "seconds": 0.0}
    assert again["seconds"] <= again["own_best_seconds"] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[phases]\n", ("is not valid TOML",)),
        ("phases = []\n", ("'phases' is []",)),
        ("[[phases]]\nseq_len = 4096\n", ("key 'phases.0.steps' is missing",)),
        ("[[phases]]\nstep = 3\n", ("unknown key 'phases.0.step'", "Did you mean 'steps'?")),
        ("[[phases]]\nsteps = 3\nseqlen = 4096\n", ("unknown key 'phases.0.seqlen'", "seq_len")),
        ("[[phases]]\nsteps = 3\nseq_len = 'x'\n", ("phases.0.seq_len", "'x'")),
        ("[[phases]]\nsteps = 3\n[switching]\nbuild_seconds = -1\n", ("build_seconds",)),
    ],
)
def test_a_mistake_in_the_file_gives_one_line(command: Command, file: Path, text: str, words: tuple[str, ...]) -> None:
    file.write_text(text)
    assert_one_line(command("plan", "llama-3.2-1b", *JOB, "--phases", file), str(file), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--certify",), "--certify is for one plan"),
        (("--allow-approximate", "lion"), "--allow-approximate may choose another training"),
        (("--cluster", "h100-sxm:16"), "give write_bytes_per_s"),
    ],
)
def test_what_does_not_go_with_phases_is_said(
    command: Command, file: Path, options: tuple[str, ...], words: str
) -> None:
    assert_one_line(command("plan", "llama-3.2-1b", *JOB, "--phases", file, *options), words)


def test_a_model_may_grow_by_layers_alone(command: Command, file: Path, tmp_path: Path) -> None:
    for name, layers in (("small", 4), ("large", 6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**SMALL, "num_hidden_layers": layers}))
    file.write_text(f"[[phases]]\nsteps = 3\n[[phases]]\nsteps = 2\nmodel = '{tmp_path / 'large.json'}'\n")
    result = command("plan", tmp_path / "small.json", *JOB, "--phases", file, "--out", tmp_path / "phases.json")
    assert result.code == 0, result
    assert "Phase 2 has 6 layers in place of 4; new ones pass their input on at first." in result.out
    assert [phase.plan_file.plan.layer_count for phase in read_phases_file(tmp_path / "phases.json").phases] == [4, 6]
    file.write_text("[[phases]]\nsteps = 3\n[[phases]]\nsteps = 2\nmodel = 'qwen3-0.6b'\n")
    assert_one_line(
        command("plan", tmp_path / "small.json", *JOB, "--phases", file),
        "phase 2 trains another model",
        "by layers alone",
    )
