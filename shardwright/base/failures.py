"""How a rank records why it stopped, so that the launching process can tell the user in one line."""

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .errors import RanksHungError, RanksLostError, RunFailedError, SpecError
from .files import read_json, write_whole

_TOLD_FIRST = ("spec", "run", "lost")


@dataclass(frozen=True)
class Failure:
    """Why one rank stopped: a mistake that the user can mend ("spec"), its own failure ("run"), or another rank's ("lost").

    `hung`: the ranks that did not arrive where others waited.
    """

    rank: int
    kind: Literal["spec", "run", "lost"]
    message: str
    traceback: str
    time_seconds: float
    hung: tuple[int, ...] = ()


def first_line(error: BaseException) -> str:
    """`error` in one line: our own errors by their message, others with their class before it."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (SpecError, RunFailedError, RanksLostError)) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave `failure-RANK.json` in `folder`, whole or not at all.

    Raises:
        SpecError: the folder is missing or not writable, or the disk is full.
    """
    kind: Literal["spec", "run", "lost"] = "run"
    if isinstance(error, (SpecError, RanksLostError)):
        kind = "spec" if isinstance(error, SpecError) else "lost"
    words = "".join(traceback.format_exception(error))
    hung = error.ranks if isinstance(error, RanksHungError) else ()
    failure = Failure(rank, kind, first_line(error), words, time.time(), hung)
    write_whole(folder / f"failure-{rank}.json", json.dumps(asdict(failure), indent=1) + "\n")


def first_failure(folder: Path) -> Failure | None:
    """The failure to report: a user's mistake, else the earliest failure of a rank itself. Later ones are mostly ranks that lost their peers."""
    found = [Failure(**read_json(path)) for path in folder.glob("failure-*.json")]
    return min(found, key=lambda failure: (_TOLD_FIRST.index(failure.kind), failure.time_seconds), default=None)
