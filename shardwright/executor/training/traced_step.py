"""One step of a run recorded by torch.profiler, on one rank of each pipeline rank."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from shardwright.specs import Plan

_WHOLE = "shardwright step"  # reports/traces reads it; passes in it have the names of actions, such as 2F0, the update is "optimizer"


class TracedStep:
    """Records the step `number` into `folder`/pipeline-rank-P.json, as Chrome trace JSON; on other ranks nothing."""

    def __init__(self, plan: Plan, folder: Path, *, rank: int, device: torch.device, number: int) -> None:
        firsts = plan.mesh.numbered().reshape(plan.mesh.pp, -1)[:, 0].tolist()
        self._path = folder / f"pipeline-rank-{firsts.index(rank)}.json" if rank in firsts else None
        self._number = number
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Record what happens inside, if `step` is the one to record."""
        if self._path is None or step != self._number:
            yield
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with profile(activities=self._activities) as found, record_function(_WHOLE):
            yield
        found.export_chrome_trace(str(self._path))
