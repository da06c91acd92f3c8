"""Choices in words."""

from typing import Any

from shardwright.base import listed


def in_words(field: str, value: Any) -> str:
    """A choice and its value, as messages name them: `schedule zb-v`, `stages of 8, 8, 7 layers`."""
    if field == "stage_layers":
        return f"stages of {', '.join(map(str, value))} layers"
    if isinstance(value, tuple):
        kinds = sorted(set(value), key=str)
        alike = f"{kinds[0]}" if len(kinds) == 1 else f"{listed(kinds)} by layer"
        return f"{field} {alike}" if kinds else f"no {field}"
    if isinstance(value, float):
        return f"{field} {value:g}"
    return f"{field} {value}"
