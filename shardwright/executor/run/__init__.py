"""A run seen by its launcher: checked, started in processes of its own or in this one, watched, ended."""

from typing import TYPE_CHECKING

from shardwright.lazy import lazy_names

if TYPE_CHECKING:
    from .checks import check_plan
    from .launching import launch

__all__ = ["check_plan", "launch"]

# a worker must hear signals, and end with its parent, before torch takes seconds to load
__getattr__ = lazy_names(__name__, {"check_plan": ".checks", "launch": ".launching"})
