"""The named software stacks, from stacks.toml beside this file."""

import tomllib
from functools import cache
from importlib.resources import files

from shardwright.base import SpecError, nearest

from .stack import Stack

OWN_STACK = "shardwright"


@cache
def _stacks() -> dict[str, Stack]:
    text = (files(__package__) / "stacks.toml").read_text(encoding="utf-8")
    return {
        name: Stack.parse({"name": name, **entry}, source=f"stacks.toml [{name}]")
        for name, entry in tomllib.loads(text).items()
    }


def stack_names() -> tuple[str, ...]:
    """The names of all stacks."""
    return tuple(_stacks())


def named_stack(name: str) -> Stack:
    """The stack called `name`.

    Raises:
        SpecError: no such stack; names the nearest.
    """
    if name not in _stacks():
        allowed = ", ".join(stack_names())
        raise SpecError(f"stack '{name}' is not known; allowed: {allowed}.{nearest(name, stack_names())}")
    return _stacks()[name]
