"""A run seen by its launcher: checked, started under torchrun or in this process, watched, ended."""

from .checks import check_plan
from .launching import launch

__all__ = ["check_plan", "launch"]
