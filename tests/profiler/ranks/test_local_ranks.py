"""Ranks that we start ourselves: one file, one line when it goes wrong, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright.base.errors import RanksLostError, SpecError
from shardwright.base.processes import usable_cores
from shardwright.profiler.ranks.local_ranks import run_local_ranks

ROOT = Path(__file__).parents[3]
JOBS = "tests.profiler.rank_jobs"


@pytest.fixture(autouse=True)
def importable_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_ranks_tell_gather_and_know_their_nodes() -> None:
    lines: list[str] = []
    answer = run_local_ranks(2, f"{JOBS}:who_is_there", "measure", tell=lines.append, hosts=("a", "b"))
    seen = json.loads(answer)
    assert seen["told"] == {"rank": 0, "argument": "measure"}
    assert [rank for rank, _ in seen["gathered"]] == [0, 1]
    assert seen["nodes"] == ["a", "b"]
    assert seen["threads"] == usable_cores(), "a rank that has a node to itself computes with all of its cores"
    assert lines == ["rank 0 tells"], "only rank 0 is heard"
    assert not any(_alive(pid) for _, pid in seen["gathered"])


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("spec", SpecError, "^no such folder: give another$"),
        ("bug", RanksLostError, "^rank 1 failed: KeyError: 'what'$"),
        ("kill", RanksLostError, r"^rank 1 was killed \(SIGKILL\), perhaps for want of memory$"),
    ],
)
@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.timeout(120)
def test_a_rank_that_fails_is_one_line_and_ends_the_others(how: str, error: type[Exception], words: str) -> None:
    """The other rank waits in a barrier that would last ten minutes."""
    with pytest.raises(error, match=words):
        run_local_ranks(2, f"{JOBS}:fail_as_told", how)


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.timeout(120)
def test_ranks_that_notice_nothing_are_ended() -> None:
    """The other rank computes for ten minutes and wants nothing of the one that died."""
    with pytest.raises(RanksLostError, match=r"rank 1 was killed \(SIGKILL\)"):
        run_local_ranks(2, f"{JOBS}:sleep_while_the_last_dies", "")


@pytest.mark.parametrize(
    ("number", "argument", "said"),
    [(signal.SIGINT, "keep", "returned partial"), (signal.SIGTERM, "lose", "SystemExit")],
)
def test_an_interrupt_lets_rank_0_finish_and_leaves_nobody(number: int, argument: str, said: str) -> None:
    program = (
        "import signal\n"
        "from shardwright.profiler.ranks.local_ranks import run_local_ranks\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is born with interrupts ignored
        "try: print('returned', run_local_ranks("
        f"2, '{JOBS}:go_on_until_interrupted', '{argument}', tell=lambda line: print(line, flush=True)))\n"
        "except BaseException as error: print(type(error).__name__)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        pids = _pids(process)
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.read().strip() == said
    assert not any(_alive(pid) for pid in pids)


def test_ranks_end_when_the_process_that_started_them_is_killed() -> None:
    program = (
        "from shardwright.profiler.ranks.local_ranks import run_local_ranks\n"
        f"run_local_ranks(2, '{JOBS}:go_on_until_interrupted', '', tell=lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        pids = _pids(process)
        process.kill()
    _await(lambda: not any(_alive(pid) for pid in pids))


def _pids(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    found: list[int] = json.loads(process.stdout.readline().removeprefix("pids "))
    assert len(found) == 2
    return found


def _alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _await(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, f"not so after 20 s, seen from {os.getpid()}"
        time.sleep(0.05)
