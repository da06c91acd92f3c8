"""Choices in words."""

from itertools import groupby
from typing import Any

_MOST_RUNS = 4


def in_words(field: str, value: Any) -> str:
    """A choice and its value, as messages name them: `schedule zb-v`, `stages of 8, 8, 7 layers`, `recompute full in 8 layers, none in 24`."""
    if field == "stage_layers":
        return f"stages of {_shortened([str(part) for part in value])} layers"
    if field == "recompute_modules" and value:
        return f"{field} {'+'.join(value)}"
    if isinstance(value, tuple):
        runs = [(kind, len(list(same))) for kind, same in groupby(value)]
        if len(runs) == 1:
            return f"{field} {runs[0][0]}"
        if not runs:
            return f"no {field}"
        first, *others = (f"{kind} in {count}" for kind, count in runs)
        return f"{field} {_shortened([f'{first} layers', *others])}"
    if isinstance(value, float):
        return f"{field} {value:g}"
    return f"{field} {value}"


def _shortened(parts: list[str]) -> str:
    shown = parts if len(parts) <= 2 * _MOST_RUNS else [*parts[:_MOST_RUNS], "...", *parts[-_MOST_RUNS:]]
    return ", ".join(shown)
