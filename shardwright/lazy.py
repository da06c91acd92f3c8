"""Names of a package that load when first used (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package`: each name from its module, imported when the name is first asked for.

    Raises (the returned function):
        AttributeError: a name that is not in `module_of`.
    """

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(module_of[name], package), name)

    return load
