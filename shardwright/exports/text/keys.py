"""What a file says, key by key: taken as what it should be, or refused by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shardwright.base import SpecError, nearest

_MISSING = object()
_NOTHING: tuple[Any, ...] = (None, False, 0, "false", "auto", [], {})


class Keys:
    """What a file says, by key. A key that is taken is understood; `left` has the others.

    `place` gives the file's key for one that is asked for: `micro_batch_size` may be `train.micro_batch_size`. `write` gives a key
    of the file as messages write it: `--micro-batch-size` on a command line.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        source: str,
        *,
        place: Callable[[str], str] = str,
        write: Callable[[str], str] = str,
    ) -> None:
        self.values = dict(values)
        self.source = source
        self._place, self._write = place, write
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._place(key) in self.values

    def spelled(self, key: str) -> str:
        """A key that is asked for, as the file writes it."""
        return self._write(self._place(key))

    @property
    def left(self) -> list[str]:
        return [key for key in self.values if key not in self._taken]

    def take(self, key: str, default: Any = None) -> Any:
        """Return a value as it is written. A null, and "auto", which another program fills in, count as absent."""
        placed = self._place(key)
        self._taken.add(placed)
        value = self.values.get(placed, default)
        return default if value is None or value == "auto" else value

    def count(self, key: str, default: Any = None) -> Any:
        """Return a whole number of 1 or more, or of 0 or more where 0 is the default.

        Raises:
            SpecError: the value is another.
        """
        value = self.take(key, _MISSING)
        if value is _MISSING:
            return default
        number = _whole(value)
        least = 0 if default == 0 else 1
        if number is None or number < least:
            raise self.wrong(key, f"a whole number of {least} or more")
        return number

    def whole(self, key: str, default: int = 0) -> int:
        """Return a whole number, which may be 0 or negative.

        Raises:
            SpecError: the value is another.
        """
        value = self.take(key, _MISSING)
        if value is _MISSING:
            return default
        number = _whole(value)
        if number is None:
            raise self.wrong(key, "a whole number")
        return number

    def share(self, key: str, default: float) -> float:
        """Return a number from 0 on.

        Raises:
            SpecError: the value is another.
        """
        value = self.take(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self.wrong(key, "a number") from None
        if not number >= 0 or isinstance(value, bool):
            raise self.wrong(key, "a number from 0 on")
        return number

    def switch(self, key: str, default: bool = False) -> bool:
        """Return whether a switch is on.

        Raises:
            SpecError: the value is neither true nor false.
        """
        value = self.take(key, default)
        known = {"true": True, "false": False, "1": True, "0": False}
        found = value if isinstance(value, bool) else known.get(str(value).lower())
        if found is None:
            raise self.wrong(key, "true or false")
        return found

    def one_of(self, key: str, names: Mapping[Any, Any], default: Any) -> Any:
        """Return what `names` has for the value.

        Raises:
            SpecError: it has nothing for it; names the nearest.
        """
        value = self.take(key, _MISSING)
        if value is _MISSING:
            return default
        if not isinstance(value, (str, int)) or value not in names:
            words = [str(name) for name in names]
            raise SpecError(
                f"{self.source}: {self.spelled(key)} {value} is not understood; understood: {', '.join(words)}."
                f"{nearest(str(value), words)}"
            )
        return names[value]

    def wrong(self, key: str, allowed: str) -> SpecError:
        return SpecError(f"{self.source}: {self.spelled(key)} is {self.values.get(self._place(key))!r}: give {allowed}")

    def refused(self, key: str, why: str) -> SpecError:
        return SpecError(f"{self.source}: {self.spelled(key)} {why}")

    def check_known(self, known: "KnownKeys") -> tuple[str, ...]:
        """Return the keys that were not taken because they do not change what a step costs, as the file spells them.

        A key that is not modelled may be there where it is off, null or empty: it then asks for nothing.

        Raises:
            SpecError: a key is unknown, with the nearest spelling, or is not modelled.
        """
        ignored = []
        for key in self.left:
            if key in known.not_modelled:
                if self.values[key] not in _NOTHING:
                    raise SpecError(f"{self.source}: {self._write(key)} {known.not_modelled[key]}")
            elif not known.is_harmless(key):
                spelled, names = self._write(key), (*self._taken, *known.harmless, *known.not_modelled)
                raise SpecError(
                    f"{self.source}: {spelled} is not known.{nearest(spelled, sorted(map(self._write, names)))}"
                )
            ignored.append(self._write(key))
        return tuple(ignored)


@dataclass(frozen=True)
class KnownKeys:
    """Keys that a table does not take: those that do not change what a step costs, also by how they begin, and those that are
    not modelled, each with what to do instead."""

    harmless: frozenset[str]
    beginnings: tuple[str, ...]
    not_modelled: Mapping[str, str]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "KnownKeys":
        """Read the table of a framework in known_keys.toml, where `name.*` stands for all keys that begin so."""
        names = [name for group in table["harmless"].values() for name in group.split()]
        beginnings = tuple(name.removesuffix("*") for name in names if name.endswith(".*"))
        return cls(frozenset(name for name in names if not name.endswith(".*")), beginnings, table["not-modelled"])

    def is_harmless(self, key: str) -> bool:
        return key in self.harmless or key.startswith(self.beginnings)


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not number.is_integer() else int(number)
