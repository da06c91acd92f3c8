"""What is read from users and shown to them: numbers within bounds, text without control characters, lines that fit a screen."""

import math
import re
from typing import Any

from .errors import SpecError

_MOST = 1e30  # above every count of bytes, FLOPs and tokens that anybody means; Avogadro's number is 6e23
_LEAST = 1e-30
_LONGEST_TEXT = 10_000
_LONGEST_WORD = 120
_LONGEST_LINE = 400
_TAIL = 100
# controls but for white space, and halves of characters: a terminal shows none of them as a sign
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def check_values(data: Any, source: str) -> None:
    """Refuse what no file of ours holds: numbers beyond 1e30 or nearer to 0 than 1e-30, control characters and half characters,
    texts of more than 10,000 characters. `data` is as `json` and `tomllib` return it.

    Raises:
        SpecError: one line that names `source`, the place and what stands there.
    """
    left: list[tuple[tuple[Any, ...], Any]] = [((), data)]  # a place: the place that holds it, and a key
    while left:
        place, value = left.pop()
        if isinstance(value, dict):
            for key in value:
                if (fault := _fault(key)) is not None:
                    raise SpecError(f"{source}: a key {fault}")
            left += [((place, key), each) for key, each in value.items()]
        elif isinstance(value, list):
            left += [((place, index), each) for index, each in enumerate(value)]
        elif (fault := _fault(value)) is not None:
            raise SpecError(f"{source}: {_named(place)}{fault}")


def _named(place: tuple[Any, ...]) -> str:
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(str(key))
    return f"{shown('.'.join(reversed(keys)))!r} " if keys else ""


def _fault(value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            return f"is {value}; give a finite number"
        if abs(value) > _MOST:
            return f"is above {_MOST:.0e}, which no quantity here reaches"
        if value and abs(value) < _LEAST:
            return f"is {value:.3g}, nearer to 0 than any quantity here; write 0 or a number of {_LEAST:.0e} or more"
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            return f"holds a text of {len(value)} characters; at most {_LONGEST_TEXT} are read"
        bad = _CONTROL.search(value)
        if bad is not None:
            return f"holds the control character U+{ord(bad[0]):04X}; take it out"
    return None


def shown(text: str) -> str:
    """Return a text as it may stand in a line: without control characters, long words cut."""
    visible = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return " ".join(
        word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD - 20]}...{word[-17:]}"
        for word in visible.split()
    )


def one_line(text: str) -> str:
    """Return a message in one line of at most 400 characters; a longer one keeps its beginning and its end."""
    line = shown(text)
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - _TAIL - 5]} ... {line[-_TAIL:]}"
