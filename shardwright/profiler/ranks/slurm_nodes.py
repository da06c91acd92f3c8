"""Slurm's lists of nodes, such as `gpu[003-005,9],login1`, read without calling Slurm."""

import re
from collections.abc import Iterator

from shardwright.base import SpecError

_NAME = re.compile(r"(?:[^\[\],\s]|\[[0-9,-]+\])+")
_RANGE = re.compile(r"(?P<low>[0-9]+)(?:-(?P<high>[0-9]+))?")


def node_names(text: str) -> list[str]:
    """Return the nodes in the order of the list.

    A name may hold any number of `[...]`, each of numbers and ranges. Leading zeros are kept.

    Raises:
        SpecError: the text is not such a list.
    """
    names: list[str] = []
    position = 0
    while match := _NAME.match(text, position):
        names.extend(_expanded(match[0], text))
        position = match.end()
        if position == len(text):
            return names
        if text[position] != ",":
            break
        position += 1
    raise SpecError(f"'{text}' is not a list of Slurm's nodes, such as gpu[003-005,9],login1")


def first_node(text: str) -> str:
    """Return the node of rank 0.

    Raises:
        SpecError: the text is not a list of nodes.
    """
    return node_names(text)[0]


def _expanded(name: str, text: str) -> Iterator[str]:
    before, bracket, rest = name.partition("[")
    if not bracket:
        yield before
        return
    inside, _, after = rest.partition("]")
    for part in inside.split(","):
        bounds = _RANGE.fullmatch(part)
        if bounds is None:
            raise SpecError(f"'{text}': '{part}' is not a number or a range of numbers such as 003-005")
        low, high = bounds["low"], bounds["high"] or bounds["low"]
        if int(high) < int(low):
            raise SpecError(f"'{text}': the range '{part}' ends before it begins")
        for number in range(int(low), int(high) + 1):
            for ending in _expanded(after, text):
                yield f"{before}{number:0{len(low)}d}{ending}"
