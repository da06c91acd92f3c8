"""How a rank says why it stopped, so that the launcher can tell the user in one line."""

import time
import traceback
from pathlib import Path
from typing import Literal

from shardwright.base.errors import SpecError
from shardwright.specs.spec import NonNegativeInt, Spec, read_json


class RunFailedError(RuntimeError):
    """A run that began did not end: one line saying which rank stopped, why, and where to read more."""


class Failure(Spec):
    """One rank's last words. `kind` "spec" is the user's to mend, "run" is not."""

    rank: NonNegativeInt
    kind: Literal["spec", "run"]
    message: str
    traceback: str
    time_seconds: float


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave `failure-RANK.json` in `folder`, whole or not at all."""
    lines = str(error).strip().splitlines() or [""]
    ours = isinstance(error, (SpecError, RunFailedError))
    message = str(error) if ours else f"{type(error).__name__}: {lines[0]}"
    failure = Failure(
        rank=rank,
        kind="spec" if isinstance(error, SpecError) else "run",
        message=message,
        traceback="".join(traceback.format_exception(error)),
        time_seconds=time.time(),
    )
    partial = folder / f".failure-{rank}.partial"
    partial.write_text(failure.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / f"failure-{rank}.json")


def first_failure(folder: Path) -> Failure | None:
    """The failure that came first: later ones are mostly ranks that lost their peers."""
    found = [Failure.parse(read_json(path), source=str(path)) for path in folder.glob("failure-*.json")]
    return min(found, key=lambda failure: (failure.kind != "spec", failure.time_seconds), default=None)
