"""`doctor` says what this machine has and lacks."""

from typing import TYPE_CHECKING

from .options import JsonOption, console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from shardwright.doctor import Finding, State

_MARKS: "dict[State, str]" = {"there": "ok", "limited": "limited", "missing": "missing"}
EXIT_LACKING = 1


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has for planning and training, what is missing, and how to get it."""
    from shardwright.doctor import examine

    found = examine()
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        console().print(_table(found))
    if any(one.part == "planning" and one.state == "missing" for one in found):
        raise SystemExit(EXIT_LACKING)


def _table(found: "list[Finding]") -> "Table":
    from itertools import pairwise

    from rich.table import Table
    from rich.text import Text

    table = Table("for", "what", "", "found", "how to get it, or what it means")
    for last, one in pairwise([None, *found]):
        assert one is not None
        first = last is None or last.part != one.part
        words = (one.part if first else "", one.name, _MARKS[one.state], one.found, one.advice or "")
        table.add_row(*map(Text, words))  # as it stands: '.[run]' is no markup
    return table
