"""Whole runs: a launcher and its ranks as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import write_plan_file
from shardwright.executor.options import RunOptions
from shardwright.executor.run.launching import launch
from shardwright.executor.training.manifest import newest_checkpoint
from shardwright.executor.training.run_folder import RunFolder
from tests.executor.forked import ForkedRank
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

LAUNCHER = """
import sys
from pathlib import Path
from shardwright.executor.run.launching import launch
from shardwright.executor.options import RunOptions
launch(Path(sys.argv[1]), RunOptions.model_validate_json(sys.argv[2]))
"""
KILL_AFTER = 8
DEADLINE_SECONDS = 60.0
GONE_SECONDS = 10.0


@pytest.mark.slow
def test_a_run_killed_with_all_its_processes_continues_where_its_checkpoint_was(
    tmp_path: Path, forked_ranks: list[ForkedRank]
) -> None:
    """SIGKILL on the launcher alone: nothing of the run survives it, and the next start takes the same steps.

    In that, one rank is killed, and the launcher starts both again from the newest checkpoint. The first run's processes are started as a
    user's are; this process forks those of the second.
    """
    plan_file = tiny(plan((layers(zero=3),), dp_shard=2))
    write_plan_file(tmp_path / "plan.json", plan_file)
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=60, checkpoint_every=5, keep_checkpoints=1)
    folder = RunFolder(run.out)
    processes = _kill_launcher(tmp_path, run)
    assert not psutil.wait_procs(processes, timeout=GONE_SECONDS)[1], "ranks outlive their launcher"
    before = folder.read_steps()
    newest = newest_checkpoint(folder.checkpoints)
    assert newest is not None
    resumed_after = int(newest.name.removeprefix("step-"))
    assert KILL_AFTER - 5 < resumed_after < 60

    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("step 40/") and len(_continuations(told)) == 1:
            forked_ranks[0].send_signal(signal.SIGKILL)

    measurement = launch(tmp_path / "plan.json", run.model_copy(update={"restarts": 1}), progress=tell)
    assert told[0] == f"continuing from {newest} after step {resumed_after}"
    assert told[1].startswith(f"step {resumed_after + 1}/60")
    assert len(_continuations(told)) == 2, "the lost worker was not started again"
    assert [record.step for record in measurement.steps] == list(range(1, 61))
    again = [record.loss for record in measurement.steps]
    assert again[: len(before)] == [record.loss for record in before]
    straight = options(tmp_path / "straight", data=run.data[0], steps=60, checkpoint_every=None)
    assert again == pytest.approx(losses(plan_file, straight), abs=1e-6)
    assert folder.read_steps() == list(measurement.steps)

    finished: list[str] = []
    assert launch(tmp_path / "plan.json", run, progress=finished.append) == measurement
    assert "already holds all 60 steps" in finished[0]


def _continuations(told: list[str]) -> list[str]:
    return [line for line in told if line.startswith("continuing from")]


def _kill_launcher(folder: Path, run: RunOptions) -> list[psutil.Process]:
    """Start a run from a folder with an `executor` and a `profiler` of its own, kill it; returns what it had started."""
    for name in ("executor", "profiler", "shardwright"):
        (folder / "own" / name).mkdir(parents=True)
        (folder / "own" / name / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')")
    launcher = subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCHER, str(folder / "plan.json"), run.model_dump_json()],
        cwd=folder / "own",
        stdout=subprocess.DEVNULL,
    )
    steps = RunFolder(run.out)
    try:
        _wait_until(lambda: len(steps.read_steps()) >= KILL_AFTER or launcher.poll() is not None, "the first steps")
        assert launcher.poll() is None, "the launcher ended early"
        processes = psutil.Process(launcher.pid).children(recursive=True)
        assert len(processes) == 2
    finally:
        launcher.kill()
        launcher.wait()
    return processes


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_a_mistake_that_one_rank_meets_in_the_middle_is_one_line(tmp_path: Path) -> None:
    """The last sequences hold a token outside the vocabulary: one of two ranks meets it, the other waits for its peer."""
    tokens = np.arange(16 * 40 + 1, dtype=np.uint16) % 250
    tokens[-16:] = 60000
    tokens.tofile(tmp_path / "tokens.bin")
    (tmp_path / "tokens.bin.json").write_text(json.dumps({"dtype": "uint16"}))
    write_plan_file(tmp_path / "plan.json", tiny(plan((layers(zero=3),), dp_shard=2)))
    run = RunOptions(out=tmp_path / "run", data=(tmp_path / "tokens.bin",), data_format="tokens", steps=5)
    with pytest.raises(SpecError) as caught:
        launch(tmp_path / "plan.json", run, progress=lambda line: None)
    assert str(caught.value).startswith(f"{tmp_path}/tokens.bin: holds token 60000 at position")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("forked_ranks")
def test_other_data_of_the_same_name_and_size_is_refused_on_resume(tmp_path: Path) -> None:
    write_plan_file(tmp_path / "plan.json", tiny(plan((layers(),))))
    data = text_file(tmp_path)
    run = options(tmp_path / "run", data=data, steps=2, checkpoint_every=1)
    launch(tmp_path / "plan.json", run, progress=lambda line: None)
    content = data.read_text()
    data.write_text(content.replace("7 times 7", "7 times 8"))
    with pytest.raises(SpecError, match="holds a run with another data"):
        launch(tmp_path / "plan.json", run.model_copy(update={"steps": 4}), progress=lambda line: None)
    data.write_text(content)
    assert len(launch(tmp_path / "plan.json", run.model_copy(update={"steps": 4})).steps) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize(("what", "data_format"), [("cut off", "tokens"), ("moved away", "text")])
def test_data_that_vanishes_ends_the_run_in_one_line_and_the_last_state_stays(
    what: str, data_format: Literal["text", "tokens"], tmp_path: Path
) -> None:
    write_plan_file(tmp_path / "plan.json", tiny(plan((layers(zero=3),), dp_shard=2)))
    data = tmp_path / "data.bin"
    data.write_bytes(
        np.arange(40_000, dtype=np.uint16).astype("<u2").tobytes() if data_format == "text" else bytes(80_000)
    )
    run = RunOptions(
        out=tmp_path / "run",
        data=(data,),
        data_format=data_format,
        token_dtype="uint16" if data_format == "tokens" else None,
        steps=100_000,
        checkpoint_every=2,
    )

    def tell(line: str) -> None:
        if line.startswith("step 5/"):
            if what == "cut off":
                os.truncate(data, 100)
            else:
                data.rename(tmp_path / "elsewhere.bin")

    with pytest.raises(SpecError) as caught:
        launch(tmp_path / "plan.json", run, progress=tell)
    told = "became shorter while the run was reading it" if what == "cut off" else "cannot be read (No such file"
    assert str(caught.value).startswith(f"{data}: {told}")
    newest = newest_checkpoint(run.out / "checkpoints")
    assert newest is not None
    assert int(newest.name.removeprefix("step-")) >= 4
