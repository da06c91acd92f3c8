"""A run on another number of devices than its plan is for: a plan for what is there, and for what is left once ranks are gone for good."""

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from shardwright.base import InfeasibleError, RunFailedError, SpecError
from shardwright.costmodel import PlanFile

_PROBE_SECONDS = 120.0
"""torch loads, and makes a context on the device."""


class PlanFor(Protocol):
    """Plans the job of a plan file anew for so many devices; `exactly`: for no fewer."""

    def __call__(self, plan_file: PlanFile, devices: int, *, exactly: bool = False) -> PlanFile: ...


class RanksGoneError(RunFailedError):
    """Ranks were lost, and no restart is left. `killed`: ended by a signal, or did not arrive where the others waited; `failed`: beside
    a device that may be broken."""

    def __init__(self, message: str, killed: Collection[int], failed: Collection[int]) -> None:
        super().__init__(message)
        self.killed, self.failed = frozenset(killed), frozenset(failed)


@dataclass
class Devices:
    """The devices of this machine that a run may use, by their place among those that are visible; None: ranks on a CPU."""

    ranks: int
    names: list[str] | None = None
    answers: Callable[[str], bool] = field(default=lambda name: _answers(name), repr=False)

    @classmethod
    def present(cls, ranks: int, gpus: int) -> "Devices":
        """Return the devices of a run of `ranks` on a machine with so many `gpus` to run on; 0: on its CPUs."""
        if not gpus:
            return cls(ranks)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(gpus)]
        return cls(ranks, names[:gpus])

    def lose(self, gone: RanksGoneError) -> bool:
        """Leave out the devices of ranks that are gone for good: killed, or failed with a device that does not answer any more. Return
        whether there are any."""
        lost = set(gone.killed)
        if self.names is None:
            self.ranks -= len(lost)
            return bool(lost)
        lost |= {rank for rank in gone.failed if not self.answers(self.names[rank])}
        self.names = [name for place, name in enumerate(self.names) if place not in lost]
        self.ranks = len(self.names)
        return bool(lost)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which ranks see these devices alone."""
        return {} if self.names is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.names)}


def plan_for_what_is_left(given: PlanFile, devices: Devices, plan_for: PlanFor, why: RunFailedError) -> PlanFile:
    """Return the given plan where its ranks are still there, else one for the devices that are left.

    Raises:
        RunFailedError: none is left, or there is no plan for them.
    """
    if devices.ranks >= given.plan.mesh.ranks:
        return given
    if not devices.ranks:
        raise why
    try:
        return plan_for(given, devices.ranks)
    except (SpecError, InfeasibleError) as reason:
        raise RunFailedError(f"{why}; and there is no plan for the {devices.ranks} left ({reason})") from None


def _answers(name: str) -> bool:
    """Whether a GPU computes, in a process of its own, as a broken one may hang or end it."""
    code = "import torch; torch.ones(1, device='cuda').add_(1).item()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": name},
            timeout=_PROBE_SECONDS,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
