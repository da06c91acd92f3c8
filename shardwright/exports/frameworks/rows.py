"""The rows of a target's table: each says how a choice is written under a key and read back, side by side."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Protocol

from shardwright.exports.choices import Choices
from shardwright.exports.text import Keys, KnownKeys

LACKING = "lacking"
"""Under this name `read_rows` collects the assumed keys that a file lacks."""


class Row(Protocol):
    """One or a few choices that belong together, and their keys."""

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys that say these choices, as near as the target can; none where its defaults say them."""

    def read(self, keys: Keys, found: Choices) -> Choices:
        """Return the choices that the keys say. `found` has what earlier rows read, and `layer_count` of the model.

        Raises:
            SpecError: a value is not understood, or asks for what is not modelled.
        """


@dataclass(frozen=True)
class Count:
    """A whole number of 1 or more; `default` is what the target takes where the key is absent."""

    choice: str
    key: str
    default: int | None = 1

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        value = choices[self.choice]
        return {} if value == self.default or not value else {self.key: value}

    def read(self, keys: Keys, found: Choices) -> Choices:
        value = keys.count(self.key, self.default)
        return {} if value is None else {self.choice: value}


@dataclass(frozen=True)
class Named:
    """A choice by name: `names` has the target's name for each of ours; `others` has further names that it reads."""

    choice: str
    key: str
    names: Mapping[Any, Any]
    default: Any
    others: Mapping[Any, Any] = field(default_factory=dict)
    nearest: Any = None

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        value = choices[self.choice]
        value = value if value in self.names else self.nearest
        return {} if value == self.default or value is None else {self.key: self.names[value]}

    def read(self, keys: Keys, found: Choices) -> Choices:
        theirs = {**{their: own for own, their in self.names.items()}, **self.others}
        return {self.choice: keys.one_of(self.key, theirs, self.default)}


@dataclass(frozen=True)
class Switch:
    """A choice of two values: the key is true for `on`, and false or absent for `off`."""

    choice: str
    key: str
    on: Any = True
    off: Any = False

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        return {self.key: True} if choices[self.choice] == self.on else {}

    def read(self, keys: Keys, found: Choices) -> Choices:
        return {self.choice: self.on if keys.switch(self.key) else self.off}


@dataclass(frozen=True)
class Joint:
    """Choices and keys that are not one to one: two functions that undo each other."""

    writes: Callable[[Mapping[str, Any]], dict[str, Any]]
    reads: Callable[[Keys, Choices], Choices]

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        return self.writes(choices)

    def read(self, keys: Keys, found: Choices) -> Choices:
        return self.reads(keys, found)


@dataclass(frozen=True)
class Assumed:
    """A key that makes the target run as its stack is described; `when` says for which choices it matters.

    It is written, and where a file lacks it, reading tells so. `read_as` is what the key is read as.
    """

    key: str
    value: Any
    when: Callable[[Mapping[str, Any]], bool]
    about: str

    def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        return {self.key: self.value} if self.when(choices) else {}

    def read(self, keys: Keys, found: Choices) -> Choices:
        given = keys.take(self.key)
        if str(given).lower() == str(self.value).lower():
            return {}
        return {LACKING: (*found.get(LACKING, ()), self)}


def write_rows(rows: tuple[Row, ...], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of all rows in order."""
    return {key: value for row in rows for key, value in row.write(choices).items()}


def read_rows(rows: tuple[Row, ...], keys: Keys, found: Choices) -> Choices:
    """Return what all rows read, each with what those before it have found.

    Raises:
        SpecError: a value is not understood, or asks for what is not modelled.
    """
    for row in rows:
        found = found | row.read(keys, found)
    return found


def lacking(rows: Sequence[Assumed], choices: Mapping[str, Any], spelled: Callable[[str], str]) -> list[str]:
    """Return what a file lacks of what its stack is described with, where it matters for these choices."""
    return [f"{spelled(row.key)} ({row.about})" for row in rows if row.when(choices)]


@cache
def known_keys(framework: str) -> KnownKeys:
    """Return the keys of a framework's file that its rows do not take."""
    tables = tomllib.loads((resources.files(__package__) / "known_keys.toml").read_text(encoding="utf-8"))
    return KnownKeys.of(tables[framework])
