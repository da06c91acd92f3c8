"""What the multiprocessors of a generation share (generations.toml), and the figures of a device that follow from it."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from pydantic import Field

from shardwright.specs import DeviceFormat, Generation, PositiveFloat, Spec


class GenerationEntry(Spec):
    """As generations.toml writes it: exponentials of a multiprocessor, and J/FLOP of matmuls at 1 GHz by format."""

    exponentials_per_clock: PositiveFloat
    joules_per_flop_at_1_ghz: dict[DeviceFormat, PositiveFloat] = Field(min_length=1)
    sources: dict[str, str]


class Figure(NamedTuple):
    """The value of a field of `Device`, and its source."""

    value: Any
    source: str


def derived(
    generation: Generation,
    peak_flops_per_s: Mapping[DeviceFormat, float],
    multiprocessors: int,
    boost_hz: float,
    boost_source: str,
) -> dict[str, Figure]:
    """Return `matmul_watts` and `exponentials_per_s` at `boost_hz`, the clock of the peaks; nothing for other generations.

    Voltage follows the clock, so that a FLOP's energy grows with its square: peak x J/FLOP at 1 GHz x (clock / 1 GHz)^2.
    """
    entry = _generations().get(generation)
    if entry is None:
        return {}
    watts = {
        name: peak_flops_per_s[name] * joules * (boost_hz / 1e9) ** 2
        for name, joules in entry.joules_per_flop_at_1_ghz.items()
        if name in peak_flops_per_s
    }
    clock = f"clock of {boost_hz / 1e6:.0f} MHz: {boost_source}"
    return {
        "matmul_watts": Figure(watts, f"{entry.sources['joules_per_flop_at_1_ghz']}; {clock}"),
        "exponentials_per_s": Figure(
            entry.exponentials_per_clock * multiprocessors * boost_hz,
            f"{entry.sources['exponentials_per_clock']}; {clock}",
        ),
    }


@cache
def _generations() -> dict[str, GenerationEntry]:
    text = resources.files(__package__).joinpath("generations.toml").read_text(encoding="utf-8")
    return {
        name: GenerationEntry.parse(entry, source=f"generations.toml: {name}")
        for name, entry in tomllib.loads(text).items()
    }
