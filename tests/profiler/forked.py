"""Ranks as forks of the server that has torch loaded, which takes a rank that starts by itself two seconds of a processor and more.

What ranks tell, measure and notice is the same. How they start, and how they end with the process that started them, is tested with
processes of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import IO, Any

import pytest

from shardwright.profiler.ranks import worker
from tests.parity.worlds import PRELOAD


class ForkedRank:
    """A process that calls `work(arguments)` and ends with what it returns, as `subprocess.Popen` shows one. `stdout` and `stderr`: as
    there, but for names of a file."""

    def __init__(
        self,
        work: Callable[[list[str]], int],
        arguments: list[str],
        *,
        env: Mapping[str, str],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        reads, self._input = os.pipe()  # it ends when this process does
        self.stdout: IO[str] | None = None
        if stdout == subprocess.PIPE:
            own, told = os.pipe()
            self.stdout = os.fdopen(own, "r")
        else:
            told = _opened(stdout, None)
        with (
            Connection(reads, writable=False) as given,
            Connection(told, readable=False) as out,
            Connection(_opened(stderr, told), readable=False) as log,
        ):
            job = (work, arguments, dict(env), given, out, log)
            self._process = context.Process(target=_work, args=job, daemon=True)
            self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, None]:
        assert self.stdout is not None
        with self.stdout:
            told = self.stdout.read()
        self._process.join(timeout)
        assert self.returncode is not None, f"still there after {timeout} s"
        os.close(self._input)
        return told, None


def _opened(to: int | IO[bytes], out: int | None) -> int:
    """A descriptor of its own of where something is written."""
    if to == subprocess.STDOUT:
        assert out is not None
        return os.dup(out)
    if to == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_WRONLY)
    assert not isinstance(to, int)
    return os.dup(to.fileno())


def _work(
    work: Callable[[list[str]], int],
    arguments: list[str],
    environment: dict[str, str],
    given: Connection[Any, Any],
    out: Connection[Any, Any],
    log: Connection[Any, Any],
) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    for number, end in enumerate((given, out, log)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin = os.fdopen(0, "r")  # multiprocessing has put nothing in its place
    code = work(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_local_ranks` fork its ranks."""

    def start(command: list[str], **given: Any) -> ForkedRank:
        options = {name: given[name] for name in ("env", "stdout", "stderr")}
        return ForkedRank(worker.main, command[command.index(worker.__name__) + 1 :], **options)

    stand_in = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
    monkeypatch.setattr("shardwright.profiler.ranks.local_ranks.subprocess", stand_in)
