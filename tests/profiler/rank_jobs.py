"""What the ranks of the tests do: jobs of `run_local_ranks`, named by "tests.profiler.rank_jobs:function"."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Never, get_args

import torch

from shardwright.base.errors import SpecError
from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.profiler.probes.movement.collective import CollectiveProbe
from shardwright.profiler.probes.movement.overlap import CollectiveOverlapProbe
from shardwright.profiler.ranks import torch_ranks
from shardwright.profiler.ranks.launch import detected_launch
from shardwright.profiler.ranks.torch_ranks import TorchRanks, joined_ranks
from shardwright.profiler.ranks.watch import WatchTimes
from shardwright.profiler.session.measure import ProfileRequest, measure_profile
from shardwright.profiler.timing.machines import machine_here
from shardwright.profiler.timing.probe import Sizes

Tell = Callable[[str], None]


def who_is_there(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """The seam's three methods, and a group of neighbours and one of strided ranks."""
    tell(f"rank {ranks.rank} tells")
    told = ranks.tell({"rank": ranks.rank, "argument": argument})
    ranks.barrier()
    gathered = ranks.gather((ranks.rank, os.getpid()))
    here = {"nodes": list(ranks.nodes.hosts), "threads": torch.get_num_threads()}
    return json.dumps({"told": told, "gathered": gathered, **here})


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


def sleep_while_the_last_dies(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """After half a second, in which all have shown that they live."""
    time.sleep(0.5)
    if ranks.rank == ranks.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return ""


def go_on_until_interrupted(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """Rank 0 keeps what it has when it is interrupted; the other ranks know nothing of it."""
    try:
        tell(f"pids {json.dumps(ranks.gather(os.getpid()))}")  # it may be interrupted as soon as this is read
        while True:
            ranks.barrier()
            time.sleep(0.02)
    except KeyboardInterrupt:
        if argument == "keep":
            return "partial"
        raise


def measure_a_profile(ranks: TorchRanks, argument: str, tell: Tell) -> str:
    """Every collective at its first size in every group, into the file `argument`; where each series was measured."""
    machine = machine_here(ranks, local_rank=ranks.local_rank, ranks_on_node=ranks.nodes.ranks_per_node)
    probes = [FirstSizes(name, ranks, machine) for name in get_args(CollectiveName)]
    request = ProfileRequest(out=Path(argument), budget_seconds=60)
    profile = measure_profile(request, machine, probes, [CollectiveOverlapProbe(ranks)], ranks=ranks)
    assert "compute_slowdown_beside_collective" in profile.figures
    return json.dumps({series.operation: [point.at for point in series.points] for series in profile.series})


class FirstSizes(CollectiveProbe):
    """One small message a group, and nothing between."""

    def first_sizes(self) -> Sequence[Sizes]:
        return [at for at in super().first_sizes() if at[0] == 2**12]

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return None


def _killed() -> Never:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _unconnected() -> Never:
    raise RuntimeError("Gloo connectFullMesh failed")


def as_rank_of_a_launcher(arguments: list[str]) -> int:
    """Do a job of this module as the rank that the environment describes, and print what it returns or why it failed.

    `arguments`: its name, the name of the machine, and its argument; "silent" counts ranks as dead after two seconds, as does "silent-join",
    which kills the last rank while the others wait for it to connect. With "join" rank 0 is told that it cannot connect.
    """
    job, host, argument = arguments
    times = WatchTimes(beat_seconds=0.2, silent_seconds=2.0) if argument.startswith("silent") else None
    launch = detected_launch(os.environ)
    assert launch is not None
    if argument.endswith("join"):
        torch_ranks._control_group = (
            _killed if launch.rank else _unconnected if argument == "join" else torch_ranks._control_group
        )
    try:
        with joined_ranks(launch, host=host, watch_times=times) as ranks:
            print(globals()[job](ranks, argument, print))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    return 0
