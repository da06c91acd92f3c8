"""Ranks of a launcher as forks of the server that has torch loaded, which takes a rank that starts by itself five seconds of a processor.

What ranks do with signals, data and folders is the same. Their start, and their end with a launcher that is killed, need ranks of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import IO, Any

import pytest

from shardwright.base import PARENT, StopRequest
from shardwright.executor.run import worker
from tests.parity.worlds import PRELOAD


class ForkedRank:
    """A rank as `subprocess.Popen` shows one."""

    def __init__(self, command: list[str], *, env: Mapping[str, str], stdout: int, stderr: IO[bytes], **_: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        told, log = (Connection(os.dup(number), readable=False) for number in (stdout, stderr.fileno()))
        with told, log:
            self._process = context.Process(target=_work, args=(command[-1], dict(env), told, log), daemon=True)
            self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)


def _work(folder: str, environment: dict[str, str], told: Connection[Any, Any], log: Connection[Any, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment | {PARENT: str(os.getppid())})
    os.dup2(told.fileno(), 1)
    os.dup2(log.fileno(), 2)
    told.close()
    log.close()
    code = worker.main([folder], StopRequest().listen())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> list[ForkedRank]:
    """Let launchers of this process fork their ranks; they are in the list, as far as they were started."""
    started: list[ForkedRank] = []

    def start(command: list[str], **given: Any) -> ForkedRank:
        started.append(ForkedRank(command, **given))
        return started[-1]

    stand_in = SimpleNamespace(Popen=start, DEVNULL=None)
    monkeypatch.setattr("shardwright.executor.run.workers.subprocess", stand_in)
    return started
