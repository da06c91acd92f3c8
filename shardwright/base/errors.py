"""The ways in which a request can fail: two that the user can mend, and two of ranks that stopped."""

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """The input is not valid. The message is one line: what was given, what is allowed and the nearest fix."""


class InfeasibleError(Exception):
    """The request is valid but no plan fits. The message is one line: which limit binds, by how much, and what would fit."""


class RunFailedError(RuntimeError):
    """A run started but did not finish. The message is one line: which rank stopped, why, and where to read more."""


class RanksHungError(RunFailedError):
    """Some ranks did not arrive where the others waited. `ranks`: those, where others did wait; else none. The message is as that of a run
    that failed."""

    def __init__(self, message: str, ranks: tuple[int, ...]) -> None:
        super().__init__(message)
        self.ranks = ranks


class RunStoppedError(RuntimeError):
    """A run ended after a whole step because it was asked to. The message is one line: after which step, and what was saved."""


class RanksLostError(RuntimeError):
    """A rank of the launch failed or is gone, so the others cannot continue. The message is one line: which rank, and why."""


def install(extra: str = "") -> str:
    """Return the command that installs the package, with the optional packages of `extra`, from a copy of the repository."""
    return f"pip install '.[{extra}]'" if extra else "pip install ."


def nearest(given: str, allowed: Iterable[str], *, cutoff: float = 0.55) -> str:
    """` Did you mean 'x'?` for the allowed word closest to `given`, or an empty string when none is close.

    `cutoff`: how alike the two must be, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    `given` itself is never the answer: a known word that is refused is refused for another reason than its spelling.
    """
    by_folded = {word.lower(): word for word in allowed if word != given}
    close = difflib.get_close_matches(given.lower(), list(by_folded), n=1, cutoff=cutoff)
    return f" Did you mean '{by_folded[close[0]]}'?" if close else ""
