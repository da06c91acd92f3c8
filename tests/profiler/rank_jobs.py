"""What the ranks of the tests do: jobs of `run_local_ranks`, named by "tests.profiler.rank_jobs:function"."""

import json
import os
import signal
import time
from collections.abc import Callable

from shardwright.costmodel.errors import SpecError
from shardwright.profiler.ranks import TorchRanks

Tell = Callable[[str], None]


def who_is_there(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """The seam's three methods, and a group of neighbours and one of strided ranks."""
    tell(f"rank {ranks.rank} tells")
    told = ranks.tell({"rank": ranks.rank, "argument": argument})
    ranks.barrier()
    gathered = ranks.gather((ranks.rank, os.getpid()))
    return json.dumps({"told": told, "gathered": gathered, "nodes": list(ranks.nodes.hosts)})


def fail_as_told(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """The last rank raises, dies or leaves its pid; the others wait for it in a barrier."""
    if ranks.rank == ranks.size - 1:
        if argument == "spec":
            raise SpecError("no such folder: give another")
        if argument == "bug":
            raise KeyError("what")
        if argument == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    ranks.barrier()
    return ""


def go_on_until_interrupted(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """Rank 0 keeps what it has when it is interrupted; the other ranks know nothing of it."""
    tell(f"pids {json.dumps(ranks.gather(os.getpid()))}")
    try:
        while True:
            ranks.barrier()
            time.sleep(0.02)
    except KeyboardInterrupt:
        if argument == "keep":
            return "partial"
        raise
