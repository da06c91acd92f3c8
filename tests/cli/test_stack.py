"""`--stack`: which software an estimate is for, and what follows from it."""

from pathlib import Path

import pytest

from shardwright.specs.stack import named_stack
from tests.cli.command import JOB, Command, assert_one_line

CORE = ("--stack", "megatron-core")


@pytest.fixture
def core_path(command: Command, tmp_path: Path) -> Path:
    """A plan for Megatron-Core."""
    path = tmp_path / "core.json"
    result = command("plan", "llama-3.2-1b", *JOB, *CORE, "--out", path)
    assert result.code == 0
    assert "shardwright run" not in result.out  # which would refuse it
    return path


def test_without_it_the_estimate_is_for_this_executor(command: Command, plan_path: Path) -> None:
    explained = command("explain", plan_path).out
    assert "for the stack 'shardwright'" in explained
    assert "│ software" not in explained


def test_another_stack_costs_what_it_costs(command: Command, plan_path: Path, core_path: Path) -> None:
    own = command("explain", plan_path, "--json").json()["plan_file"]
    core = command("explain", core_path, "--json").json()["plan_file"]
    assert (own["training"]["stack"], core["training"]["stack"]) == ("shardwright", "megatron-core")
    seconds = [sum(file["estimate"]["step"].values()) for file in (core, own)]
    assert seconds[0] < seconds[1]  # fused and overlapped


def test_explain_says_which_and_what_it_is(command: Command, core_path: Path) -> None:
    assert "│ software          │ megatron-core" in command("explain", core_path).out
    why = command("explain", core_path, "--json").json()["why"]
    about = named_stack("megatron-core").about
    assert why[-2] == f"The estimate is for the stack 'megatron-core': {about}."


def test_the_formats_that_a_stack_fixes_are_its_own(command: Command) -> None:
    """torchtune keeps parameters and gradients in bf16, whose plan takes less memory."""
    plan = (
        "plan",
        "llama-3.2-1b",
        *JOB,
        "--json",
        "--pp",
        "1",
        "--tp",
        "1",
        "--zero-stage",
        "3",
        "--micro-batch",
        "1",
        "--dp-replicate",
        "1",
    )
    narrow = command(*plan, "--stack", "torchtune").json()["plan_file"]
    wide = command(*plan, "--stack", "torchtitan").json()["plan_file"]
    formats = [
        (file["training"]["precision"]["parameters"], file["training"]["precision"]["gradients"])
        for file in (narrow, wide)
    ]
    assert formats == [("bf16", "bf16"), ("fp32", "fp32")]
    assert narrow["estimate"]["memory"][0]["optimizer_state"] == wide["estimate"]["memory"][0]["optimizer_state"] / 2


def test_run_refuses_a_plan_for_other_software(command: Command, core_path: Path, tmp_path: Path) -> None:
    result = command("run", core_path, "--out", tmp_path / "out", "--ranks", "8")
    assert_one_line(
        result, "the plan is for stack 'megatron-core'; this executor is 'shardwright': plan again without --stack"
    )
    assert not (tmp_path / "out").exists()


class TestCompare:
    JOB = ("compare", "llama-3.2-1b", *JOB, "--strategy", "zero3")

    def test_is_of_one_software_and_says_which(self, command: Command, core_path: Path) -> None:
        compared = command(*self.JOB, *CORE, "--plan", core_path)
        assert compared.out.startswith("llama-3.2-1b on h100-sxm:8, trained by megatron-core")
        assert "trained by" not in command(*self.JOB).out
        assert command(*self.JOB, *CORE, "--json").json()["stack"] == "megatron-core"

    def test_refuses_a_plan_file_for_another(self, command: Command, core_path: Path) -> None:
        result = command(*self.JOB, "--plan", core_path)
        assert_one_line(
            result, "core.json", "planned for --stack megatron-core", "is for shardwright", "give --stack megatron-core"
        )


def test_a_format_that_the_planner_chose_is_in_the_plan_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "fp8.json"
    result = command("plan", "llama-3.2-1b", *JOB, *CORE, "--allow-precision", "all", "--out", path)
    assert result.code == 0
    printed = command("explain", path, "--json").json()["plan_file"]["training"]
    assert printed["precision"]["linear"] == "fp8"
    words = " ".join(result.out.split())
    assert "The planner chose linears in fp8; with linears in bf16 the fastest plan takes" in words
