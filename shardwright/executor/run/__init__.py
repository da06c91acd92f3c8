"""A run from the outside: checked, started under torchrun or here, watched, ended."""

from .launching import launch

__all__ = ["launch"]
