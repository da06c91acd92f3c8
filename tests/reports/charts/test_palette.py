"""The palette: one colour for one meaning, and colours of one chart apart for every colour vision."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from shardwright.reports.charts.palette import CAUSES, MEANINGS, PARTS, PASSES, SERIES, STATES, Colour
from shardwright.specs import MemoryBytes, StepSeconds

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009), severity 1.0
VISIONS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# OKLab (Ottosson, 2020): from linear sRGB to cone responses, and from their cube roots on
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
LEAST = {"normal": 0.10, "protanopia": 0.09, "deuteranopia": 0.09, "tritanopia": 0.07}
TIME = {**{name: colour for name, colour in PASSES.items() if name != "forward"}, **CAUSES}
SAME = {("backward", "input_gradient")}
VARIANTS = (0, 1)


def seen(colour: str, vision: str) -> NDArray[np.float64]:
    """OKLab coordinates of what a reader with that vision sees of `#rrggbb`."""
    values = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = np.array(TO_CONES) @ np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    lab: NDArray[np.float64] = np.array(TO_LAB) @ np.cbrt(np.clip(cones, 0, None))
    return lab


def nearest_pair(colours: dict[str, Colour], variant: int, vision: str) -> tuple[float, str, str]:
    """The distance of the two colours that look most alike, and their meanings."""
    pairs = [pair for pair in combinations(colours, 2) if pair not in SAME]
    return min(
        (float(np.linalg.norm(seen(colours[one][variant], vision) - seen(colours[other][variant], vision))), one, other)
        for one, other in pairs
    )


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("variant", VARIANTS, ids=("light", "dark"))
@pytest.mark.parametrize("colours", [TIME, PARTS], ids=("time", "memory"))
def test_colours_of_one_chart_are_apart(colours: dict[str, Colour], variant: int, vision: str) -> None:
    distance, one, other = nearest_pair(colours, variant, vision)
    assert distance >= LEAST[vision], f"{one} and {other} look alike"


def test_colours_that_only_their_hue_divides_would_be_found() -> None:
    """Control: a red and a green of equal lightness are far apart, but not for protanopia."""
    pair = {"red": Colour("#c65b3c", "#c65b3c"), "green": Colour("#7c7a2c", "#7c7a2c")}
    assert nearest_pair(pair, 0, "normal")[0] > LEAST["normal"]
    assert nearest_pair(pair, 0, "deuteranopia")[0] < LEAST["deuteranopia"]


@pytest.mark.parametrize("variant", VARIANTS, ids=("light", "dark"))
def test_one_colour_has_one_meaning(variant: int) -> None:
    by_colour: dict[str, set[str]] = {}
    for meaning, colour in {**TIME, **PARTS, **STATES}.items():
        by_colour.setdefault(colour[variant], set()).add(meaning)
    assert [names for names in by_colour.values() if len(names) > 1] == [{"backward", "input_gradient"}]


def test_every_cause_and_part_has_a_colour() -> None:
    assert list(CAUSES) == list(StepSeconds.model_fields)
    assert set(PARTS) == set(MemoryBytes.model_fields)
    assert len(SERIES) == len({colour.light for colour in SERIES.values()})
    assert set(MEANINGS) >= set(PASSES) | set(STATES) | set(SERIES)
