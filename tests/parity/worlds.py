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
    try:
        return _run_once(size, function, args, timeout_seconds)
    except _SignalError as death:
        warnings.warn(str(death), stacklevel=2)
        return _run_once(size, function, args, timeout_seconds)


def _run_once(
    size: int, function: Callable[..., Result], args: tuple[object, ...], timeout_seconds: float
) -> list[Result]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes, connections = [], []
        for rank in range(size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_rank_main, args=(rank, size, store, there, function, args), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            connections.append(here)
        try:
            return _collect(connections, time.monotonic() + timeout_seconds)
        except _SilentDeathError as death:
            dead = processes[death.rank]
            dead.join(10)
            told = f"rank {death.rank} died with exit code {dead.exitcode}"
            if dead.exitcode is None or dead.exitcode >= 0 or dead.exitcode == -signal.SIGKILL:
                raise RankFailedError(told) from None
            raise _SignalError(f"{told}:\n{_stacks(store, death.rank).read_text()}") from None
        finally:
            for process in processes:
                process.kill()
                process.join()


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


def _collect(connections: list[Connection[Any, Any]], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    pending = {connection: rank for rank, connection in enumerate(connections)}
    while pending:
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailedError(f"ranks {sorted(pending.values())} did not finish in time")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = pending.pop(connection)
            try:
                succeeded, content = pickle.loads(connection.recv_bytes())  # noqa: S301  # from our own child process
            except EOFError:
                raise _SilentDeathError(rank) from None
            if not succeeded:
                raise RankFailedError(f"rank {rank} failed:\n{content}")
            results[rank] = content
    return [results[rank] for rank in range(len(connections))]


def _rank_main(
    rank: int,
    size: int,
    store: str,
    connection: Connection[Any, Any],
    function: Callable[..., object],
    args: tuple[object, ...],
) -> None:
    faulthandler.enable(_stacks(store, rank).open("w"))
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
        answer = (True, function(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    # by value: handles to shared memory would die with this process
    connection.send_bytes(pickle.dumps(answer))
    connection.close()
    # destroying the group waits for peers, which a failed rank no longer has
    os._exit(0)
