"""Plans with replicas in several groups, through every command that reads a plan file."""

from pathlib import Path

from tests.cli.command import Command, assert_one_line

JOB = ("--cluster", "h100-sxm:8+a100-sxm-80gb:8", "--seq-len", "2048", "--global-batch", "32")


def test_every_command_reads_a_plan_with_replicas_or_refuses_it(command: Command, tmp_path: Path) -> None:
    path, report = tmp_path / "plan.json", tmp_path / "report.html"
    found = command("plan", "llama-3.2-1b", *JOB, "--fastest", "--out", path, "--report", report)
    assert found.code == 0
    assert "Data parallelism reaches over the groups" in " ".join(found.out.split())
    assert "run refuses it" in found.out
    explained = command("explain", path, "--json").json()
    plan = explained["plan_file"]["plan"]
    assert len(plan["replicas"]) == 2
    assert plan["replicas"][0]["microbatches"] != plan["replicas"][1]["microbatches"]
    assert "on group 2" in explained["why"][0]
    assert "of group 2" in command("explain", path).out
    simulated = command("simulate", path, "--json").json()
    assert abs(simulated["step_seconds"] / sum(explained["plan_file"]["estimate"]["step"].values()) - 1) < 1e-9
    assert "0 of group 2" in command("simulate", path).out
    compared = command("compare", "llama-3.2-1b", *JOB, "--strategy", "ddp", "--plan", path, "--json").json()
    assert compared["rows"][-1]["name"] == "plan.json"
    assert compared["rows"][-1]["reason"] is None
    assert_one_line(command("run", path), "mixed cluster", "plan for one group alone")
    assert_one_line(command("explain", path, "--pipeline-layout", "Et*16L"), "replicas in 2 groups")
    assert "of group 2" in report.read_text(encoding="utf-8")


def test_avoiding_the_link_between_groups(command: Command) -> None:
    found = command("plan", "llama-3.2-1b", *JOB, "--avoid", "between", "--json").json()
    assert [group["devices_per_node"] for group in found["plan_file"]["cluster"]["groups"]] == [8]
    assert any("reaches over no link between groups" in reason for reason in found["why"])


def test_avoiding_a_link_that_is_not_there(command: Command) -> None:
    job = ("--cluster", "h100-sxm:8", *JOB[2:])
    assert_one_line(command("plan", "llama-3.2-1b", *job, "--avoid", "between"), "nodes of one kind", "--avoid nic")
