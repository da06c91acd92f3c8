"""A target: how one framework's file is written and read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shardwright.costmodel import PlanFile

from .flat import Choices, Job

WORKLOAD = frozenset({"expert_imbalance", "routing", "lengths", "packing"})
"""What the data does: no configuration says it."""


@dataclass(frozen=True)
class Found:
    """What a file says: `choices`, in words what its framework is assumed to do though the file does not say so
    (`lacks`), and the keys that do not change what a step costs (`ignored`)."""

    choices: Choices
    lacks: Callable[[Mapping[str, Any]], list[str]] = lambda choices: []
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One framework.

    Attributes:
        name: as `--to` names it.
        release: what the file is written for.
        suffix: of the file's name.
        stacks: those whose costs the framework has, the usual one first.
        axes: those beside data parallelism that it has.
        outside: choices that its file does not hold, because the training script has them.
        writes: the text of a plan file in the target's form.
        keys: what such a text sets, by its own keys.
        reads: what such a text says; takes the text, its name for messages, and the job.
    """

    name: str
    release: str
    suffix: str
    stacks: tuple[str, ...]
    axes: frozenset[str]
    outside: frozenset[str]
    writes: Callable[[PlanFile], str]
    reads: Callable[[str, str, Job], Found]
    keys: Callable[[str], dict[str, Any]]
