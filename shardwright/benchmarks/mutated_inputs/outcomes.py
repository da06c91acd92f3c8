"""What a command did, and what is wrong with it."""

import contextlib
import io
import json
import math
import signal
import sys
import unicodedata
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple
from unittest import mock

from shardwright.cli import main as command_line

from .changes import places

_MOST_SECONDS = 60
"""Of the processor; a machine may do other work beside it."""
_LONGEST_WAIT_SECONDS = 300
_LONGEST_LINE = 400
EXIT_CODES = (0, 1, 2, 3)


class _TooLongError(BaseException):
    """No exception that a command would catch."""


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it wrote. `error`: an exception that reached the caller."""

    code: int | None
    stdout: str
    stderr: str
    error: str | None


def run(arguments: tuple[str, ...]) -> Outcome:
    """Run a command in this process, as its entry point does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code: int | None = None
    error = None
    with (
        mock.patch.object(sys, "argv", ["shardwright", *arguments]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
    ):
        try:
            with _at_most(_MOST_SECONDS, _LONGEST_WAIT_SECONDS):
                command_line()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException as raised:  # what a user would see as a traceback
            if isinstance(raised, KeyboardInterrupt):
                raise
            error = f"{type(raised).__name__}: {raised}"[:300]
    return Outcome(code, _text(out), _text(err), error)


def _text(stream: io.TextIOWrapper) -> str:
    if stream.closed:
        return ""
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8", "replace")


@contextlib.contextmanager
def _at_most(seconds: int, wait_seconds: int) -> Iterator[None]:
    """End what takes longer, by the clock of the processor or by that on the wall."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError(f"no answer within {seconds} s of a processor, or {wait_seconds} s")

    limits = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, wait_seconds),
    )
    before = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, most in limits:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def fault(arguments: tuple[str, ...], outcome: Outcome) -> str | None:
    """Return what is wrong with an outcome; None where nothing is."""
    if outcome.error is not None or outcome.code not in EXIT_CODES:
        return f"not caught: {outcome.error or f'exit code {outcome.code}'}"
    if outcome.code and not outcome.stderr.strip():
        return "exit code without a word"
    for line in outcome.stderr.splitlines():
        if len(line) > _LONGEST_LINE:
            return f"a line of {len(line)} characters: {line[:80]}"
    for character in outcome.stderr + outcome.stdout:
        if unicodedata.category(character) == "Cc" and character not in "\n\t\r":
            return f"control character {character!r}"
    if "Traceback" in outcome.stderr:
        return "a traceback"
    ended_early = arguments[:1] in (("run",), ("profile",)) and not outcome.stdout  # see `checks_alone`
    if "--json" in arguments and outcome.code == 0 and not ended_early:
        return _fault_in_json(outcome.stdout)
    return None


def _fault_in_json(text: str) -> str | None:
    try:
        document = json.loads(text, parse_constant=lambda constant: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return "JSON that is none"
    for holder, key in places(document):
        value = holder[key]
        if key in ("mfu", "hfu") and isinstance(value, (int, float)) and not (math.isfinite(value) and 0 <= value <= 1):
            return f"{key} of {value}"
    return None
