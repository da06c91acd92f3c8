"""Small distributed worlds on this machine's CPU: every rank a process forked from a server that has torch loaded."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")

PRELOAD = "tests.parity.preload"


class RankFailedError(AssertionError):
    """A rank of a world raised, died or did not finish; the message holds its traceback."""


class _SilentDeathError(Exception):
    """A rank ended before it answered."""

    def __init__(self, rank: int) -> None:
        self.rank = rank


class _SignalError(RankFailedError):
    """A signal that is no SIGKILL ended a rank."""


def run_world(
    size: int, function: Callable[..., Result], *args: object, timeout_seconds: float = 120.0
) -> list[Result]:
    """Call `function(*args)` on `size` gloo ranks, one thread each, and return their results by rank.

    `function`, its arguments and its results travel by pickle, so the function stands at the top of a module. It finds
    the default process group up. A world of which a signal other than SIGKILL ends a rank is run a second time, under a warning that holds
    the rank's stacks: CI saw one such death in 12,190 tests, and nobody has yet seen its cause.

    Raises:
        RankFailedError: with the traceback of the first rank that failed; the other ranks are ended.
    """

    def once() -> list[Result]:
        world = _World(size)
        try:
            return world.call(function, args, timeout_seconds, puts_back=False)
        finally:
            world.end()

    return _with_a_second_try(once)


def _with_a_second_try(call: Callable[[], list[Result]]) -> list[Result]:
    try:
        return call()
    except _SignalError as death:
        warnings.warn(str(death), stacklevel=3)
        return call()


CALLS_OF_A_WORLD = 8
"""Calls after which a world ends that is used again. Each leaves process groups behind, whose threads wake a hundred times a second."""
_kept: dict[int, _World] = {}


def run_again(
    size: int, function: Callable[..., Result], *args: object, timeout_seconds: float = 120.0
) -> list[Result]:
    """The same in a world that an earlier call left, whose ranks know how to divide what they divided before: half the time for a small
    model. What a call replaces in modules and classes, as faults do, is put back after it.

    Raises:
        RankFailedError: likewise.
    """

    def once() -> list[Result]:
        for other in [kept for kept in _kept if kept != size]:
            _kept.pop(other).end()
        world = _kept.pop(size, None) or _World(size)
        try:
            results = world.call(function, args, timeout_seconds, puts_back=True)
        except BaseException:
            world.end()
            raise
        if world.stays_whole and world.calls < CALLS_OF_A_WORLD:
            _kept[size] = world
        else:
            world.end()
        return results

    return _with_a_second_try(once)


class _World:
    """Ranks that wait for calls, each a process."""

    def __init__(self, size: int) -> None:
        self.calls, self.stays_whole = 0, True
        self._folder = tempfile.TemporaryDirectory()
        self._store = str(Path(self._folder.name) / "store")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        self._processes, self._connections = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_rank_main, args=(rank, size, self._store, there), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)

    def call(
        self, function: Callable[..., Result], args: tuple[object, ...], timeout_seconds: float, *, puts_back: bool
    ) -> list[Result]:
        """Call the function on every rank. After an error the world is of no further use."""
        self.calls += 1
        deadline = time.monotonic() + timeout_seconds
        job = pickle.dumps((function, args, puts_back))
        try:
            for rank, connection in enumerate(self._connections):
                _send(connection, job, rank)
            answers = _collect(self._connections, deadline)
        except _SilentDeathError as death:
            dead = self._processes[death.rank]
            dead.join(10)
            told = f"rank {death.rank} died with exit code {dead.exitcode}"
            if dead.exitcode is None or dead.exitcode >= 0 or dead.exitcode == -signal.SIGKILL:
                raise RankFailedError(told) from None
            raise _SignalError(f"{told}:\n{_stacks(self._store, death.rank).read_text()}") from None
        self.stays_whole = all(answer.whole for answer in answers)
        return [answer.content for answer in answers]

    def end(self) -> None:
        """End the ranks at once."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._folder.cleanup()


class _Answer(NamedTuple):
    """What a rank found, or the traceback that ended it. `whole`: whether everything was put back that the call replaced."""

    succeeded: bool
    content: Any
    whole: bool = False


def _stacks(store: str, rank: int) -> Path:
    """Where a rank that a signal ends leaves its stacks."""
    return Path(f"{store}-stacks-{rank}")


class _Outcome(NamedTuple):
    """What one rank found in one call, or the traceback that ended it."""

    result: Any
    error: str = ""


def _each(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[_Outcome]:
    """Call the function with each arguments. The first that fails ends this rank's world, as its peers may wait for it."""
    outcomes = []
    for given in arguments:
        try:
            outcomes.append(_Outcome(function(*given)))
        except Exception:
            outcomes.append(_Outcome(None, traceback.format_exc()))
            break
    return outcomes


def run_in_turn(
    size: int, function: Callable[..., Any], arguments: dict[str, tuple[Any, ...]], *, timeout_seconds: float = 150.0
) -> dict[str, list[Any]]:
    """Call `function` with each of the named `arguments` in one world, and return the results of each name by rank."""
    by_rank = run_world(size, _each, function, list(arguments.values()), timeout_seconds=timeout_seconds)
    results: dict[str, list[Any]] = {}
    for index, name in enumerate(arguments):
        found = [outcomes[index] for outcomes in by_rank if index < len(outcomes)]
        assert not any(outcome.error for outcome in found), f"{name}:\n" + "\n".join(outcome.error for outcome in found)
        assert len(found) == size, f"{name} was not reached"
        results[name] = [outcome.result for outcome in found]
    return results


def _send(connection: Connection[Any, Any], job: bytes, rank: int) -> None:
    try:
        connection.send_bytes(job)
    except OSError:
        raise _SilentDeathError(rank) from None


def _collect(connections: list[Connection[Any, Any]], deadline: float) -> list[_Answer]:
    answers: dict[int, _Answer] = {}
    pending = {connection: rank for rank, connection in enumerate(connections)}
    while pending:
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailedError(f"ranks {sorted(pending.values())} did not finish in time")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = pending.pop(connection)
            try:
                answer: _Answer = pickle.loads(connection.recv_bytes())  # noqa: S301  # from our own child process
            except (EOFError, ConnectionResetError):
                raise _SilentDeathError(rank) from None
            if not answer.succeeded:
                raise RankFailedError(f"rank {rank} failed:\n{answer.content}")
            answers[rank] = answer
    return [answers[rank] for rank in range(len(connections))]


def _rank_main(rank: int, size: int, store: str, connection: Connection[Any, Any]) -> None:
    last_words = _stacks(store, rank).open("a")
    faulthandler.enable(last_words)
    os.dup2(last_words.fileno(), 2)  # what C++ says before it aborts
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        # a rank that ended now would cut off one that still connects
        meeting = dist.distributed_c10d._get_default_store()
        meeting.set(f"connected/{rank}", "")
        meeting.wait([f"connected/{other}" for other in range(size)])
        while True:
            # by value: handles to shared memory would die with this process
            connection.send_bytes(pickle.dumps(_answer(connection.recv_bytes())))
    except EOFError:
        pass  # nobody calls any more
    except BaseException:
        connection.send_bytes(pickle.dumps(_Answer(False, traceback.format_exc())))
    connection.close()
    # destroying the group waits for peers, which a failed rank no longer has
    os._exit(0)


def _answer(job: bytes) -> _Answer:
    from tests.parity.putting_back import PutBack  # loads torch, which the process of the tests may do without

    try:
        function, args, puts_back = pickle.loads(job)  # noqa: S301  # from the process that started this one
        if not puts_back:
            return _Answer(True, function(*args))
        with PutBack() as put_back:
            content = function(*args)
        faults = [given.__name__ for given in args if isinstance(given, FunctionType)]
        assert put_back.replaced or not faults, f"{faults} replaced nothing that is put back, and would last"
        return _Answer(True, content, put_back.whole)
    except BaseException:
        return _Answer(False, traceback.format_exc())
