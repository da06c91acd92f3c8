"""Where the output cannot take what is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shardwright
from tests.cli.command import Command


def _explain(plan_path: Path, stdout: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, printing to the file `stdout`."""
    with open(stdout, "w") as out:
        return subprocess.run(
            [sys.executable, "-m", "shardwright", "explain", plan_path],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | environment,
        )


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full, a disk that is always full")
def test_the_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version").out == f"shardwright {shardwright.__version__}\n"


def test_a_full_disk_is_one_line(command: Command, plan_path: Path) -> None:
    ended = _explain(plan_path, "/dev/full")
    assert ended.returncode == 2
    assert ended.stderr == "error: standard output: cannot be read or written (No space left on device)\n"


def test_a_terminal_in_ascii_gets_every_table(command: Command, plan_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    ended = _explain(plan_path, str(out), PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "instead of" in out.read_text(encoding="ascii")


def test_names_are_printed_as_they_are(command: Command, tmp_path: Path) -> None:
    """Also where they look like the markup that colours the output."""
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('name = "[/red]mine"\nnodes = 1\ndevice = "h100-sxm"\n')
    job = ("llama-3.2-1b", "--cluster", cluster, "--seq-len", "1024", "--global-batch", "16")
    assert "on [/red]mine" in command("plan", *job).out
    assert "llama-3.2-1b on [/red]mine" in command("plan", *job, "--details").out
    assert "llama-3.2-1b on [/red]mine" in command("compare", *job, "--strategy", "ddp").out
