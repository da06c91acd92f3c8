"""Amounts as a person writes them: tokens with decimal prefixes, and spans of time or the date of a deadline."""

import math
import re
from datetime import UTC, datetime

from .errors import SpecError

SECONDS_PER_HOUR = 3600.0
SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR
_SHOWN = 40  # characters of what was given
_MOST_TOKENS = 1e18
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_TOKENS = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmbgt]?)", re.IGNORECASE)
_UNITS = {"s": 1.0, "min": 60.0, "h": SECONDS_PER_HOUR, "d": SECONDS_PER_DAY, "w": 7 * SECONDS_PER_DAY}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|w)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2})?")


def read_tokens(text: str) -> float:
    """A number of tokens as papers write it: `300B`, `1T`, `1.5e12`, `1_000_000`. Prefixes are decimal: k, M, B or G, T.

    Raises:
        SpecError: it is no such number, or not between 1 and 10^18.
    """
    found = _TOKENS.fullmatch(text.strip())
    if not found:
        raise SpecError(
            f"'{text[:_SHOWN]}' is no number of tokens; write it as 300B, 1T, 1.5e12 or 1_000_000 (k, M, B and T are decimal)"
        )
    tokens = float(found[1].replace("_", "")) * _PREFIXES[found[2].lower()]
    if not 1 <= tokens <= _MOST_TOKENS:
        raise SpecError(f"'{text[:_SHOWN]}' tokens: give 1 or more, up to 1e18")
    return tokens


def read_deadline(text: str, now: datetime | None = None) -> float:
    """Seconds until a deadline: a span `36h`, `10d`, `2w` (s, min, h, d, w), or a date in UTC, `2027-01-31` or `2027-01-31T18:00`.

    `now`: the time, with its zone, from which a date counts; None for this moment.

    Raises:
        SpecError: it is neither, it is no time at all, or the date is past.
    """
    given = text.strip()
    if span := _SPAN.fullmatch(given):
        seconds = float(span[1]) * _UNITS[span[2]]
        if not 0 < seconds < math.inf:
            raise SpecError(f"'{given[:_SHOWN]}' leaves no time; give a span above 0, such as 10d")
        return seconds
    if not _DATE.fullmatch(given):
        raise SpecError(
            f"'{given[:_SHOWN]}' is no deadline; write a span as 36h, 10d or 2w (s, min, h, d, w), or a date as 2027-01-31"
        )
    present = now or datetime.now(UTC)
    try:
        until = datetime.fromisoformat(given).replace(tzinfo=UTC)
    except ValueError:
        raise SpecError(f"'{given}' is no date of the calendar; write it as 2027-01-31") from None
    if until <= present:
        raise SpecError(
            f"'{given}' is past: now it is {present:%Y-%m-%dT%H:%M} in UTC; give a later date, or a span as 10d"
        )
    return (until - present).total_seconds()
