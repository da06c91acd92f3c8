"""Lower bounds of the step of every entry of the space at once; infinite where no plan of an entry fits its memory."""

from .entry_bounds import lower_bounds

__all__ = ["lower_bounds"]
