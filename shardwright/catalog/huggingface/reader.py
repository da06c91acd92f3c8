"""Typed access to a config.json: each value is checked where it is read; each error is one line with file and key."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from shardwright.base import SpecError

# Far above any existing model, and low enough that a typing error can't make us list a billion layers.
LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 10_000


class ConfigReader:
    """Reads one configuration. Where a key has several spellings, the one in the file is read.

    `source` is the file, for errors; `name` is that of the model. `read_keys` are all keys that were read so far, in
    every spelling. The family ignores the others.
    """

    def __init__(self, config: Mapping[str, Any], *, source: str, name: str) -> None:
        self.config = config
        self.source = source
        self.name = name
        self.read_keys: set[str] = set()

    def error(self, message: str) -> SpecError:
        return SpecError(f"{self.source}: {message}")

    def required_size(self, *spellings: str, at_most: int = LARGEST_SIZE) -> int:
        """Return a whole number of at least 1.

        Raises:
            SpecError: the key is missing or null, or its value is no such number.
        """
        size = self.optional_size(*spellings, default=None, at_most=at_most)
        if size is None:
            if null := self._null_key(spellings):
                raise self._null(null, at_least=1)
            # Only a difference of one letter or two: some other key of a config is always vaguely similar.
            close = difflib.get_close_matches(spellings[0], list(self.config), n=1, cutoff=0.85)
            hint = f"; is '{close[0]}' a misspelling of it?" if close else "; give it as a whole number"
            raise self.error(f"key '{spellings[0]}' is missing{hint}")
        return size

    def size(self, *spellings: str, default: int, at_least: int = 1) -> int:
        """Return a whole number, `default` where the key is missing.

        Raises:
            SpecError: the value is no such number. For null the message suggests no default: null often means that a
                part is absent.
        """
        size = self.optional_size(*spellings, default=default, at_least=at_least)
        if size is None:
            raise self._null(self._null_key(spellings) or spellings[0], at_least)
        return size

    def integer(self, key: str, *, default: int) -> int:
        """Return a whole number of either sign, `default` where the key is missing or null."""
        _, value = self._find((key,), default)
        if value is not None and type(value) is not int:
            raise self.error(f"'{key}' is {shown(value)}: must be a whole number")
        return default if value is None else int(value)

    def is_null(self, *spellings: str) -> bool:
        """Whether the first spelling is given as null, and no other holds a value."""
        self.read_keys.update(spellings)
        return spellings[0] in self.config and all(self.config.get(key) is None for key in spellings)

    def optional_size(
        self, *spellings: str, default: int | None, at_least: int = 1, at_most: int = LARGEST_SIZE
    ) -> int | None:
        """Return a whole number or null, `default` where the key is missing."""
        key, value = self._find(spellings, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
            raise self.error(f"'{key}' is {shown(value)}: must be a whole number from {at_least} to {at_most}")
        return value

    def flag(self, *spellings: str, default: bool) -> bool:
        """Return true or false; null counts as false."""
        key, value = self._find(spellings, default)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"'{key}' is {shown(value)}: must be true or false")
        return bool(value)

    def word(self, key: str, *, default: str) -> str:
        """Return a word; null counts as `default`."""
        _, value = self._find((key,), default)
        if value is not None and not isinstance(value, str):
            raise self.error(f"'{key}' is {shown(value)}: must be a word")
        return value or default

    def indices(self, key: str) -> frozenset[int]:
        """Return a list of layer indices, empty where the key is missing or null."""
        self.read_keys.add(key)
        listed = self.config.get(key)
        if listed is None:
            return frozenset()
        if not isinstance(listed, Sequence) or not all(type(index) is int for index in listed):
            raise self.error(f"'{key}' is {shown(listed)}: must be a list of layer indices")
        return frozenset(listed)

    def numbers(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers in its order, empty where the key is missing or null."""
        self.indices(key)
        return tuple(self.config.get(key) or ())

    def words(self, key: str) -> tuple[str, ...] | None:
        """Return a list of words, None where the key is missing or null."""
        self.read_keys.add(key)
        listed = self.config.get(key)
        if listed is None:
            return None
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise self.error(f"'{key}' is {shown(listed)}: must be a list of words")
        for word in listed:
            if not isinstance(word, str):
                raise self.error(f"'{key}' holds {shown(word)}: must be a list of words")
        return tuple(listed)

    def section(self, key: str) -> "ConfigReader":
        """Return the nested configuration under `key`, an empty one where it is missing or null."""
        nested = self.config.get(key)
        if nested is None:
            nested = {}
        if not isinstance(nested, Mapping):
            raise self.error(f"'{key}' is {shown(nested)}: must be an object")
        return ConfigReader(nested, source=f"{self.source}: {key}", name=self.name)

    def refuse(self, key: str, *, built: object, default: object) -> None:
        """Refuse a key that asks for what transformers doesn't build. It would be counted and trained wrongly."""
        self.read_keys.add(key)
        value = self.config.get(key, default)
        if value is not None and value != built:
            raise self.error(f"'{key}' is {shown(value)}: transformers builds this family with {shown(built)} only")

    def _null(self, key: str, at_least: int) -> SpecError:
        return self.error(f"'{key}' is null: give it as a whole number from {at_least}")

    def _null_key(self, spellings: Sequence[str]) -> str | None:
        return next((key for key in spellings if key in self.config), None)

    def _find(self, spellings: Sequence[str], default: object) -> tuple[str, Any]:
        self.read_keys.update(spellings)
        given = [key for key in spellings if self.config.get(key) is not None]
        if not given:
            named = self._null_key(spellings)
            return (spellings[0], default) if named is None else (named, None)
        first, *others = given
        for other in others:
            if self.config[other] != self.config[first]:
                raise self.error(
                    f"'{first}' is {shown(self.config[first])} and '{other}' is {shown(self.config[other])}: "
                    "these are two spellings of one key; keep one"
                )
        return first, self.config[first]


def shown(value: object) -> str:
    """Return the value as in the file, shortened where it is long."""
    shown = json.dumps(value, default=repr)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
