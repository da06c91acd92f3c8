"""What all ranks decide together at the end of a step: whether to save, and whether the run ends here."""

import time
from typing import NamedTuple

import torch
import torch.distributed as dist

from shardwright.base import SECONDS_PER_HOUR, StopRequest
from shardwright.executor import RunOptions

_SECONDS_PER_MINUTE = 60.0


class Ending(NamedTuple):
    """The decision. `stopped`: a rank was asked to stop. `over`: the hours are over. `save`: the minutes to a checkpoint are.

    `unsaved`: on some rank a checkpoint that was written beside the steps failed.
    """

    stopped: bool
    over: bool
    save: bool
    unsaved: bool

    @property
    def ends(self) -> bool:
        return self.stopped or self.over


class Limits:
    """Asks all ranks after each step, as they must decide the same. The clock is that of rank 0, from the start of the process, which
    `began` at that time by `time.monotonic`."""

    def __init__(
        self, options: RunOptions, stop: StopRequest, device: torch.device, *, began: float | None = None
    ) -> None:
        self._options, self._stop, self._device = options, stop, device
        self._saved = time.monotonic()
        self._begin = self._saved if began is None else began

    def ask(self, *, unsaved: bool) -> Ending:
        """Return the decision; every rank calls this."""
        now, leads = time.monotonic(), dist.get_rank() == 0
        hours, minutes = self._options.until_hours, self._options.every_minutes
        over = hours is not None and now - self._begin >= hours * SECONDS_PER_HOUR
        save = minutes is not None and now - self._saved >= minutes * _SECONDS_PER_MINUTE
        found = [self._stop.asked, leads and over, leads and save, unsaved]
        asked = torch.tensor(found, dtype=torch.int32, device=self._device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return Ending(*map(bool, asked.tolist()))

    def saved(self) -> None:
        """Say that a checkpoint was saved: the minutes to the next count from here."""
        self._saved = time.monotonic()
