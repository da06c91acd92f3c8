"""The launch of several ranks, read from the environment of torchrun or Slurm."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shardwright.base import SpecError

from .slurm_nodes import first_node

_PORTS = range(20_000, 30_000)


@dataclass(frozen=True)
class Launch:
    """One rank of `size`, the `local_rank`-th of its node, started `by` a launcher.

    The ranks connect at `address` and `port`. Ranks that we start on one machine connect through a `file`.
    """

    by: Literal["torchrun", "slurm", "here"]
    rank: int
    size: int
    local_rank: int
    address: str = ""
    port: int = 0
    file: Path | None = None

    @property
    def meeting_place(self) -> str:
        return str(self.file) if self.file else f"{self.address}:{self.port}"


def detected_launch(environment: Mapping[str, str]) -> Launch | None:
    """Return the launch of several ranks that `environment` describes, or None where this process was started alone.

    Torchrun's variables come before Slurm's, since Slurm may have started torchrun. Inside a Slurm job only processes
    of `srun` are ranks. A batch script has SLURM_PROCID as well, but no SLURM_STEP_NODELIST.

    Raises:
        SpecError: some of the variables are missing or not numbers.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _torchrun(environment)
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return _slurm(environment)
    return None


def _torchrun(environment: Mapping[str, str]) -> Launch | None:
    size = _whole(environment, "WORLD_SIZE", "torchrun")
    rank = _whole(environment, "RANK", "torchrun")
    if size == 1:
        return None
    return _checked(
        Launch(
            by="torchrun",
            rank=rank,
            size=size,
            local_rank=_whole(environment, "LOCAL_RANK", "torchrun"),
            address=_text(environment, "MASTER_ADDR", "torchrun"),
            port=_whole(environment, "MASTER_PORT", "torchrun"),
        )
    )


def _slurm(environment: Mapping[str, str]) -> Launch | None:
    """Derive the port from job and step, so that all ranks agree on it and two steps on a node use different ones."""
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    size = _whole(environment, tasks, "srun")
    if size == 1:
        return None
    if "MASTER_PORT" in environment:
        port = _whole(environment, "MASTER_PORT", "srun")
    else:
        job, step = (_whole(environment, name, "srun") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = _PORTS[(job * 7 + step) % len(_PORTS)]
    return _checked(
        Launch(
            by="slurm",
            rank=_whole(environment, "SLURM_PROCID", "srun"),
            size=size,
            local_rank=_whole(environment, "SLURM_LOCALID", "srun"),
            address=environment.get("MASTER_ADDR") or first_node(_text(environment, "SLURM_STEP_NODELIST", "srun")),
            port=port,
        )
    )


def _checked(launch: Launch) -> Launch:
    if not launch.rank < launch.size:
        raise SpecError(f"the environment says rank {launch.rank} of {launch.size}; ranks count from 0")
    return launch


def _text(environment: Mapping[str, str], name: str, launcher: str) -> str:
    if not environment.get(name):
        raise SpecError(
            f"the environment looks like one rank of several, but has no {name}; start the ranks with {launcher}, or unset RANK and WORLD_SIZE"
        )
    return environment[name]


def _whole(environment: Mapping[str, str], name: str, launcher: str) -> int:
    text = _text(environment, name, launcher)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise SpecError(f"{name} is '{text}'; {launcher} sets it to a whole number")
    return int(text)
