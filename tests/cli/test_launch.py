"""`launch` writes a script, says how to use it, and finds a misspelled option of the run before the job waits in a queue."""

from pathlib import Path

import pytest

from tests.cli.command import Command, assert_one_line


@pytest.mark.parametrize(
    ("options", "file", "holds", "how"),
    [
        (("--slurm", "--time", "1:00:00"), "shardwright-llama-3-2-1b.sh", "#SBATCH --time=1:00:00", "sbatch"),
        (("--kubernetes", "--image", "a/b"), "shardwright-llama-3-2-1b.yaml", 'image: "a/b"', "kubectl apply"),
    ],
)
def test_what_is_written(
    command: Command,
    plan_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    file: str,
    holds: str,
    how: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("launch", plan_path, *options, "--", "--out", "run", "--steps", "3")
    assert done.code == 0, done.err
    assert how in done.out
    text = (tmp_path / file).read_text()
    assert holds in text
    assert "--steps" in text
    assert_one_line(command("launch", plan_path, *options), f"{file}: exists; give another --to, or --force")
    assert command("launch", plan_path, *options, "--force").code == 0


def test_lines_for_torchrun(command: Command, plan_path: Path) -> None:
    done = command("launch", plan_path, "--torchrun", "--master", "node7", "--", "--out", "run")
    assert done.code == 0, done.err
    assert "--node-rank 0" in done.out
    assert "--master-addr node7" in done.out


def test_what_is_refused(command: Command, plan_path: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("node0\nrm -rf /\n")
    for options, says in (
        ((), "choose one of --slurm, --kubernetes, --ssh HOSTS and --torchrun, not none"),
        (("--slurm", "--torchrun"), "not slurm and torchrun"),
        (("--slurm", "--image", "x"), "--image is for --kubernetes, not --slurm; leave it out"),
        (("--kubernetes",), "needs a container image that has shardwright[run]; give --image"),
        (("--slurm", "--", "--stepz", "3"), "--stepz"),
        (("--slurm", "--", "--steps", "many"), "many"),
        (("--ssh", str(hosts)), "'rm -rf /' is no name of a host"),
        (("--ssh", str(tmp_path / "none")), "none"),
    ):
        assert_one_line(command("launch", plan_path, *options), says)
    assert not list(tmp_path.glob("*.sh"))
