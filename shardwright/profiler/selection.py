"""The selection of what a profile measures, by the names that a user gives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from shardwright.base import SpecError, nearest
from shardwright.costmodel.op_times import CollectiveName, Operator

if TYPE_CHECKING:  # this imports torch, which checking the user's input need not wait for
    from shardwright.profiler.timing import Probe

FIGURES, LAYERS = "figures", "layers"
_UPDATES = ("adamw", "sgd", "clip", "host_adamw")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "matmul": ("matmul",),
    "attention": ("attention",),
    "operators": tuple(name for name in get_args(Operator) if name not in _UPDATES),
    "optimizer": _UPDATES,
    "casts": ("cast",),
    "copies": ("host_copy",),
    "disk": ("disk_read", "disk_write"),
    "collectives": get_args(CollectiveName),
    FIGURES: (FIGURES,),
    LAYERS: (LAYERS,),
}
_NAMES = frozenset(name for names in GROUPS.values() for name in names)


def chosen_operations(words: Iterable[str]) -> frozenset[str]:
    """Return the operations that the words name, or all where there are no words.

    A word names a group or one operation, or several with commas between. The single numbers are `figures`; a model's
    layers are `layers`.

    Raises:
        SpecError: a word names nothing; gives the nearest name.
    """
    given = [part.strip().lower().replace("-", "_") for word in words for part in word.split(",")]
    found: set[str] = set()
    for name in given:
        if name not in GROUPS and name not in _NAMES:
            close = nearest(name, (*GROUPS, *_NAMES))
            raise SpecError(
                f"--only '{name}': names nothing that is measured.{close} Give {', '.join(GROUPS)}, or one operation of these"
            )
        found |= set(GROUPS.get(name, (name,)))
    return frozenset(found or _NAMES)


def selected(probes: "Iterable[Probe]", operations: frozenset[str]) -> "Sequence[Probe]":
    """Return the probes of the chosen operations, in order."""
    return [probe for probe in probes if probe.operation in operations]
