"""Whole runs of two ranks that are asked to stop: they finish their step, save, and say how to go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardwright.costmodel.plan_file import write_plan_file
from shardwright.executor.options import RunOptions
from shardwright.executor.run.launching import launch
from shardwright.executor.training.manifest import newest_checkpoint
from shardwright.executor.training.run_folder import RunFolder
from tests.executor.forked import ForkedRank
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

PLAN = tiny(plan((layers(zero=3),), dp_shard=2))
STEPS = 12
When = Callable[[str], bool]
Signalled = Callable[[list[ForkedRank]], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[float]:
    return losses(PLAN, options(tmp_path_factory.mktemp("straight"), data=data, steps=STEPS, checkpoint_every=None))


def ranks() -> list[psutil.Process]:
    """Those of the run that this process launched, unless it forked them; the worlds of other tests have a server here."""
    return [child for child in psutil.Process().children() if "shardwright.executor.run.worker" in child.cmdline()]


def to_the_launcher(number: int) -> Signalled:
    return lambda ranks: os.kill(os.getpid(), number)


def to_a_rank(number: int) -> Signalled:
    return lambda ranks: ranks[-1].send_signal(number)


def to_all(number: int) -> Signalled:
    """As a batch system does."""

    def send(ranks: list[ForkedRank]) -> None:
        for rank in ranks:
            rank.send_signal(number)
        os.kill(os.getpid(), number)

    return send


def run_until(
    folder: Path, run: RunOptions, signalled: Signalled, when: When, ranks: list[ForkedRank]
) -> tuple[int, list[str]]:
    """Start a run, signal at the first line that is so; return the launcher's exit code and what it said."""
    write_plan_file(folder / "plan.json", PLAN)
    told: list[str] = []
    sent = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        if not sent.is_set() and when(line):
            sent.set()
            signalled(ranks)

    with pytest.raises(SystemExit) as caught:
        launch(folder / "plan.json", run, progress=tell)
    assert isinstance(caught.value.code, int)
    return caught.value.code, told


def at_step_3(line: str) -> bool:
    return line.startswith("step 3/")


def goes_on(folder: Path, run: RunOptions, expected: list[float], *, after: int) -> None:
    told: list[str] = []
    measured = launch(folder / "plan.json", run, progress=told.append)
    assert [record.loss for record in measured.steps] == expected
    if after:
        assert told[0].endswith(f"step-{after:06d} after step {after}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signalled", "code", "again"),
    [
        (to_the_launcher(signal.SIGTERM), 143, False),
        (to_all(signal.SIGTERM), 143, True),
        (to_the_launcher(signal.SIGINT), 130, False),
    ],
    ids=["SIGTERM", "SIGTERM to all", "SIGINT"],
)
def test_between_two_checkpoints(
    signalled: Signalled,
    code: int,
    again: bool,
    tmp_path: Path,
    data: Path,
    expected: list[float],
    forked_ranks: list[ForkedRank],
) -> None:
    """What is saved is the same in all cases, and one of them goes on."""
    run = options(tmp_path / "run", data=data, steps=STEPS, checkpoint_every=100)
    found, told = run_until(tmp_path, run, signalled, at_step_3, forked_ranks)
    assert found == code
    newest = newest_checkpoint(run.out / "checkpoints")
    assert newest is not None
    saved = int(newest.name.removeprefix("step-"))
    assert 3 <= saved < STEPS
    assert told[-1] == f"stopped; the same command continues after {newest.name}"
    assert [record.step for record in RunFolder(run.out).read_steps()] == list(range(1, saved + 1))
    if again:
        goes_on(tmp_path, run, expected, after=saved)


@pytest.mark.slow
def test_a_rank_alone_is_told(tmp_path: Path, data: Path, forked_ranks: list[ForkedRank]) -> None:
    run = options(tmp_path / "run", data=data, steps=200, checkpoint_every=100)
    found, told = run_until(tmp_path, run, to_a_rank(signal.SIGTERM), at_step_3, forked_ranks)
    assert found == 143
    assert newest_checkpoint(run.out / "checkpoints") is not None
    assert "the same command continues after step-" in told[-1]


@pytest.mark.slow
def test_during_a_checkpoint(tmp_path: Path, data: Path, expected: list[float], forked_ranks: list[ForkedRank]) -> None:
    """The signal comes while files lie in the folder of a checkpoint that is not whole yet."""
    run = options(tmp_path / "run", data=data, steps=STEPS, checkpoint_every=1)
    launcher, seen = os.getpid(), threading.Event()

    def watch() -> None:
        while not seen.is_set():
            if any((run.out / "checkpoints").glob(".step-*.partial/*")):
                seen.set()
                os.kill(launcher, signal.SIGTERM)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    found, _ = run_until(tmp_path, run, lambda ranks: None, lambda line: False, forked_ranks)
    watching.join()
    assert found == 143
    newest = newest_checkpoint(run.out / "checkpoints")
    assert newest is not None
    assert not any((run.out / "checkpoints").glob(".*"))
    goes_on(tmp_path, run, expected, after=int(newest.name.removeprefix("step-")))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.4, 2.0])
def test_while_ranks_start(seconds: float, tmp_path: Path, data: Path) -> None:
    """Before they hear anything, while they load torch, and after that; nothing is lost, so nothing is saved."""
    run = options(tmp_path / "run", data=data, steps=10_000, checkpoint_every=10_000)
    write_plan_file(tmp_path / "plan.json", PLAN)
    told: list[str] = []

    def signal_later() -> None:
        while len(ranks()) < 2:
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_later, daemon=True).start()
    with pytest.raises(SystemExit) as caught:
        launch(tmp_path / "plan.json", run, progress=told.append)
    assert caught.value.code == 143
    assert told[-1].startswith("stopped; the same command ")
    if not any(line.startswith("step ") for line in told):
        assert told[-1] == "stopped; the same command begins again, as there is no checkpoint yet"


@pytest.mark.slow
def test_without_checkpoints_none_is_written(tmp_path: Path, data: Path, forked_ranks: list[ForkedRank]) -> None:
    run = options(tmp_path / "run", data=data, steps=200, checkpoint_every=None)
    found, told = run_until(tmp_path, run, to_the_launcher(signal.SIGTERM), at_step_3, forked_ranks)
    assert found == 143
    assert not (run.out / "checkpoints").exists()
    assert told[-1] == "stopped; the same command begins again, as there is no checkpoint yet"


@pytest.mark.slow
def test_the_command_says_it_and_gives_the_exit_code(tmp_path: Path, data: Path) -> None:
    """Under torchrun, too, whose ranks hear the signal themselves."""
    write_plan_file(tmp_path / "plan.json", PLAN)
    arguments = ["run", str(tmp_path / "plan.json"), "--out", str(tmp_path / "run"), "--data", str(data), "--steps"]
    command = [sys.executable, "-m", "shardwright", *arguments, "10000"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    torchrun += ["--nproc-per-node=2", "-m", "shardwright", *arguments, "20000"]
    for begin, code in ((command, 143), (torchrun, 1)):  # torchrun has its own code
        process = subprocess.Popen(begin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith("step ") and len(said) > 3:
                process.send_signal(signal.SIGTERM)
                break
        said += [line.rstrip() for line in process.stdout]
        assert process.wait() == code
        assert said[-1].startswith("stopped; the same command continues after step-")


@pytest.mark.slow
def test_ranks_of_a_torchrun_that_is_killed_end_too(tmp_path: Path, data: Path) -> None:
    write_plan_file(tmp_path / "plan.json", PLAN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", "-m", "shardwright", "run", str(tmp_path / "plan.json")]
    command += ["--out", str(tmp_path / "run"), "--data", str(data), "--steps", "100000"]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert agent.stdout is not None
    next(line for line in agent.stdout if line.startswith("step 3/"))
    of_agent = psutil.Process(agent.pid).children(recursive=True)
    assert len(of_agent) >= 2
    agent.kill()
    assert not psutil.wait_procs(of_agent, timeout=10.0)[1], "ranks outlive torchrun"
    agent.communicate()
