"""A run seen by its launcher: checked, started under torchrun or in this process, watched, ended."""

from .launching import launch

__all__ = ["launch"]
