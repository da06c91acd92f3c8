"""Puts back what a fault replaces in a process, so that another call finds it as it was."""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage

OWN = ("shardwright.", "tests.")
OF_TORCH: tuple[ModuleType | type, ...] = (dist, FSDPModule, PipelineStage)
"""What faults replace something of, beside our own modules and their classes."""


class PutBack:
    """Restores, where it ends, the names of modules and classes that were replaced inside.

    `replaced`: their names. `whole`: nothing of it can have stayed; a module that was imported beside something replaced may hold it.
    """

    replaced: tuple[str, ...] = ()
    whole = True

    def __enter__(self) -> Self:
        self._modules = _own_modules()
        self._before = [(owner, dict(vars(owner))) for owner in _owners(self._modules)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.replaced = tuple(name for owner, before in self._before for name in _restore(owner, before))
        self.whole = not self.replaced or _own_modules().keys() == self._modules.keys()


def _own_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in list(sys.modules.items()) if name.startswith(OWN)}


def _owners(modules: dict[str, ModuleType]) -> list[ModuleType | type]:
    classes = {
        value: None
        for module in modules.values()
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    return [*modules.values(), *classes, *OF_TORCH]


def _restore(owner: ModuleType | type, before: dict[str, Any]) -> list[str]:
    """Put back what differs and return its names. A name that is new in a class hid one that it inherits; one that is new in a module
    is of an import."""
    now = vars(owner)
    replaced = [name for name, value in before.items() if now.get(name, before) is not value]
    added = [name for name in now if name not in before] if isinstance(owner, type) else []
    for name in replaced:
        setattr(owner, name, before[name])
    for name in added:
        delattr(owner, name)
    return [f"{owner.__name__}.{name}" for name in (*replaced, *added)]
