"""How a rank says why it stopped, and how the process that started the ranks reads it."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shardwright.base.errors import SpecError


class RanksLostError(RuntimeError):
    """A rank of the launch failed or is gone, so the others cannot go on; one line says which and why."""


@dataclass(frozen=True)
class RankFailure:
    """One rank's last words: its own mistake of the user's to mend ("spec"), its own trouble ("run"), or another's ("lost")."""

    rank: int
    kind: Literal["spec", "run", "lost"]
    message: str
    time_seconds: float


def first_line(error: BaseException) -> str:
    """What to tell of `error` in one line: our own errors speak for themselves, the others with their kind."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (SpecError, RanksLostError)) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave `failure-RANK.json` in `folder`, whole or not at all."""
    kind: Literal["spec", "run", "lost"] = "run"
    if isinstance(error, (SpecError, RanksLostError)):
        kind = "spec" if isinstance(error, SpecError) else "lost"
    failure = RankFailure(rank=rank, kind=kind, message=first_line(error), time_seconds=time.time())
    partial = folder / f".failure-{rank}.partial"
    partial.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    partial.replace(folder / f"failure-{rank}.json")


def first_failure(folder: Path) -> RankFailure | None:
    """The failure to tell: the first one of a rank's own, for later ones are mostly ranks that lost their peers."""
    found = [RankFailure(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("failure-*.json")]
    return min(found, key=lambda failure: (failure.kind == "lost", failure.time_seconds), default=None)
