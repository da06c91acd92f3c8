"""Runs in phases: `plan --phases` writes them, and other commands take them, or one of their phases."""

import json
from pathlib import Path

import pytest

from shardwright.cli import main
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
    again = command("plan", "llama-3.2-1b", *JOB, "--phases", file, "--json", "--report", tmp_path / "page.html").json()
    assert "2,100 steps take " in (tmp_path / "page.html").read_text()
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


STATED = """
[switching]
build_seconds = 20

[[phases]]
steps = 20
seq_len = 512
global_batch = 8

[[phases]]
steps = 10
seq_len = 1024
global_batch = 4
"""
CLUSTER = ("--cluster", "h100-sxm:2")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phases file of a small model on two ranks."""
    folder = tmp_path_factory.mktemp("phases")
    (folder / "model.json").write_text(json.dumps(SMALL))
    (folder / "phases.toml").write_text(STATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["shardwright", "plan", str(folder / "model.json"), *CLUSTER, "--phases", str(folder / "phases.toml"),
                                   "--out", str(folder / "phases.json"), "--tp", "1", "--pp", "1"])  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, "phases that state their lengths and batches need no options for them"
    return folder / "phases.json"


@pytest.mark.parametrize(
    ("left_out", "option"), [("seq_len = 512\n", "--seq-len"), ("global_batch = 4\n", "--global-batch")]
)
def test_lengths_and_batches_are_needed_where_a_phase_lacks_them(
    command: Command, small: Path, file: Path, left_out: str, option: str
) -> None:
    file.write_text(STATED.replace(left_out, ""))
    number = "1" if "512" in left_out else "2"
    result = command("plan", small.parent / "model.json", *CLUSTER, "--phases", file)
    assert_one_line(result, f"phase {number} has no", option)
    assert_one_line(command("plan", small.parent / "model.json", *CLUSTER), "--seq-len is missing")


def test_each_phase_is_explained_and_then_the_whole_run(command: Command, small: Path) -> None:
    result = command("explain", small, "--report", small.parent / "page.html", "--force")
    assert result.code == 0, result
    assert result.out.index("Phase 1 ") < result.out.index("Phase 2 ") < result.out.index("All phases ")
    assert result.out.count("\nWhy\n") == 2
    assert "30 steps take " in result.out
    assert "Phase 2 begins in 20" in result.out
    page = (small.parent / "page.html").read_text()
    assert "30 steps take " in page
    assert page.count("of 512") == page.count("of 1,024") == 1
    found = command("explain", small, "--json").json()
    assert [phase["steps"] for phase in found["phases"]] == [20, 10]
    assert [phase["plan_file"]["training"]["seq_len"] for phase in found["phases"]] == [512, 1024]
    assert [switch["kind"] for switch in found["switches"]] == ["none", "memory"]
    steps = sum(phase.steps * phase.plan_file.estimated().step_seconds for phase in read_phases_file(small).phases)
    assert found["seconds"] == pytest.approx(steps + found["switches"][1]["seconds"])


def test_each_phase_is_traced(command: Command, small: Path) -> None:
    found = command("run", small, "--dry", "--json").json()["phases"]
    assert [one["kind"] for one in found] == ["shardwright-dry-run"] * 2
    alone = command("run", f"{small}:2", "--dry")
    assert alone.code == 0, alone
    whole = command("run", small, "--dry")
    assert alone.out in whole.out
    assert "Phase 1 " in whole.out
    assert_one_line(command("run", small, "--dry", "--dry-ranks", "7"), "phase 1: rank 7")


@pytest.mark.parametrize("command_line", ["simulate PLAN", "export PLAN --to accelerate", "export PLAN --to accelerate --closest --json",
                                          "import PLAN", "explain PLAN --step-noise 0.01", "compare MODEL JOB --strategy best --plan PLAN"])  # fmt: skip
def test_commands_for_one_plan_take_a_phase(command: Command, small: Path, command_line: str) -> None:
    """They say so where none is named."""
    job = (*CLUSTER, "--seq-len", "1024", "--global-batch", "4", "--attention", "flash")

    def words(plan: str) -> list[str]:
        stands_for = {"PLAN": [plan], "MODEL": [str(small.parent / "model.json")], "JOB": list(job)}
        return [word for part in command_line.split() for word in stands_for.get(part, [part])]

    assert_one_line(command(*words(str(small))), f"{small}:1")
    assert command(*words(f"{small}:2")).code == 0
    assert_one_line(command(*words(f"{small}:3")), "has no phase 3", "1 to 2")
    assert_one_line(command(*words(f"{small}:x")), "'x' is no number of a phase", f"{small.name}:1")


@pytest.mark.parametrize("option", [("--pipeline-layout", "Et|tL"), ("--step-noise", "0.1")])
def test_what_explains_one_plan_alone_names_a_phase(command: Command, small: Path, option: tuple[str, str]) -> None:
    assert_one_line(command("explain", small, *option), option[0], f"{small}:1")


def test_scripts_start_all_phases(command: Command, small: Path) -> None:
    assert f"run {small}" in command("launch", small, "--torchrun").out
    for option in (("--steps", "3"), ("--until-tokens", "1M"), ("--replan",)):
        assert_one_line(command("launch", small, "--torchrun", "--", *option), f"leave out {option[0]}")
    assert f"run {small}" in command("export", small, "--to", "slurm").out


def test_a_plan_file_has_no_phases(command: Command, small: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(json.loads(small.read_text())["phases"][0]["plan_file"]))
    assert_one_line(command("simulate", tmp_path / "plan.json:1"), "is no phases file", "leave out ':1'")
    (tmp_path / "plan.json:1").write_text((tmp_path / "plan.json").read_text())
    assert command("simulate", tmp_path / "plan.json:1").code == 0, "a file of that name is read"


def test_an_output_never_replaces_the_phases(command: Command, small: Path) -> None:
    assert_one_line(command("simulate", f"{small}:1", "--trace", small, "--force"), "is read by this command")


@pytest.mark.parametrize("command_line", [("explain",), ("run",), ("simulate",), ("import",), ("launch", "--torchrun")])
def test_what_a_user_writes_is_no_plan_yet(command: Command, file: Path, command_line: tuple[str, ...]) -> None:
    assert_one_line(command(command_line[0], file, *command_line[1:]), f"--phases {file.name} --out phases.json")
