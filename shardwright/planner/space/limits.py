"""Limits of a choice: the values that it may take, as ranges or as names, or all values but those."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Self

from pydantic import model_validator

from shardwright.base import SpecError, listed, nearest, read_count
from shardwright.specs import CHOICES, Choice, Spec

SHARES = tuple(choice.name for choice in CHOICES if choice.fraction)
"""The choices that are shares from 0 to 1."""

# Choices with few numbers: the lowest and the highest; None where the job decides. Others are degrees and counts from 1 on.
_NUMBERS: dict[str, tuple[int, int | None]] = {
    "zero_stage": (0, 3),
    **dict.fromkeys(SHARES, (0, 1)),
    "etp": (0, None),
}
_UNLIMITED = ("sequence_parallel", "even_stages", "delayed_update", "stages", "sync")

LIMITED: dict[str, Choice] = {choice.name: choice for choice in CHOICES if choice.name not in _UNLIMITED}
"""The choices that may have limits, by name."""


class Limit(Spec):
    """The values that one choice may take; `value in limit` asks for one.

    Attributes:
        choice: one of `LIMITED`.
        ranges: lowest and highest number of each range, both included; None for no highest.
        names: where the choice is a name.
        excluded: the choice may take all values but these.
    """

    choice: str
    ranges: tuple[tuple[int | float, int | float | None], ...] = ()
    names: tuple[str, ...] = ()
    excluded: bool = False

    @classmethod
    def read(cls, choice: str, given: object, *, excluded: bool = False) -> Self:
        """Read a value, several values, or text: `8`, `1,2,8`, `4..8`, `..8`, `4..`, `0.25..1`, `1f1b,gpipe`.

        Raises:
            SpecError: the choice has no limits, or the values are none of its own.
        """
        if choice not in LIMITED:
            raise SpecError(f"'{choice}' has no limits; allowed: {listed(LIMITED)}.{nearest(choice, LIMITED)}")
        parts = [given] if isinstance(given, int | float | str) else given
        if not isinstance(parts, Iterable):
            raise SpecError(f"{choice} is {given!r}; give a value, several, or a range such as '4..8'")
        words = [word.strip() for part in parts for word in str(part).split(",")]
        if LIMITED[choice].values:
            return cls.parse({"choice": choice, "names": words, "excluded": excluded}, source=choice)
        ranges = [_range(choice, word) for word in words]
        return cls.parse({"choice": choice, "ranges": ranges, "excluded": excluded}, source=choice)

    @model_validator(mode="after")
    def _holds_values(self) -> Self:
        allowed = LIMITED[self.choice].values if self.choice in LIMITED else ()
        for name in self.names:
            if name not in allowed:
                raise ValueError(f"'{name}' is not known; allowed: {listed(allowed)}.{nearest(name, allowed)}")
        if not (self.names if allowed else self.ranges):
            raise ValueError("gives no value")
        least, most = _NUMBERS.get(self.choice, (1, None))
        for low, high in self.ranges:
            if low < least or (most is not None and max(low, high or low) > most):
                until = "or more" if most is None else f"to {most}"
                raise ValueError(f"{_shown(low, high)} is outside {least} {until}")
            if high is not None and high < low:
                raise ValueError(f"the range {low}..{high} holds no value; write it as {high}..{low}")
        return self

    def __contains__(self, value: object) -> bool:
        if isinstance(value, str):
            return (value in self.names) != self.excluded
        assert isinstance(value, int | float)
        return any(low <= value and (high is None or value <= high) for low, high in self.ranges) != self.excluded

    @property
    def values(self) -> str:
        """The values as a user writes them, without the name of the choice."""
        return ", ".join((*self.names, *(_shown(low, high) for low, high in self.ranges)))

    @property
    def only(self) -> Any:
        """The value where there is one alone; None otherwise."""
        single = (*self.names, *(low for low, high in self.ranges if low == high))
        return single[0] if len(single) == 1 == len(self.names) + len(self.ranges) and not self.excluded else None

    def __str__(self) -> str:
        how = "other than " if self.excluded else "within " if self.only is None else ""
        return f"{self.choice} {how}{self.values}"


def read_limits(given: object) -> object:
    """`{"tp": "4..8", "schedule": {"1f1b", "gpipe"}}` as limits; anything else as it is, for the spec to check."""
    if isinstance(given, Mapping):
        return tuple(Limit.read(choice, values) for choice, values in given.items())
    return given


def have_common_value(limits: Iterable[Limit]) -> bool:
    """Whether a value is in all `limits`, which are of one choice. Numbers change sides only next to an end of a range, shares
    only at one."""
    limits = tuple(limits)
    choice = limits[0].choice
    if LIMITED[choice].values:
        return any(all(name in limit for limit in limits) for name in LIMITED[choice].values)
    least, most = _NUMBERS.get(choice, (1, None))
    ends = [end for limit in limits for span in limit.ranges for end in span if end is not None]
    if LIMITED[choice].fraction:
        between = sorted({0.0, 1.0, *ends})
        middles = [(low + high) / 2 for low, high in pairwise(between)]
        return any(all(share in limit for limit in limits) for share in (*between, *middles))
    near = {least, *(end + step for end in ends for step in (-1, 0, 1))}
    return any(all(n in limit for limit in limits) for n in near if n >= least and (most is None or n <= most))


def read_number(choice: str, word: str) -> int | float:
    """Read a number of a choice: a count, or a share from 0 to 1.

    Raises:
        SpecError: it is none; names what one looks like.
    """
    if not LIMITED[choice].fraction:
        try:
            return read_count(word)
        except SpecError as error:
            raise SpecError(f"{error}; a range is 4..8, a list 1,2,8") from None
    try:
        return float(word)
    except ValueError:
        raise SpecError(f"'{word}' is no share; give 0.5, a range 0..1 or a list 0,0.5,1") from None


def _range(choice: str, word: str) -> tuple[int | float, int | float | None]:
    """Read `8`, `4..8`, `..8`, `4..`."""
    low, dots, high = word.partition("..")
    try:
        if dots and (low or high):
            least, most = _NUMBERS.get(choice, (1, None))
            return read_number(choice, low) if low else least, read_number(choice, high) if high else most
        return read_number(choice, word), read_number(choice, word)
    except SpecError as error:
        raise SpecError(f"--{choice.replace('_', '-')}: {error}") from None


def _shown(low: float, high: float | None) -> str:
    return f"{low:.12g}.." if high is None else f"{low:.12g}" if low == high else f"{low:.12g}..{high:.12g}"
