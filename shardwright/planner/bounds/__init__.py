"""Lower bounds on the step of all entries of the space at once; infinite where no plan of an entry fits its memory."""

from .entry_bounds import least_bounds, lower_bounds, quick_bounds

__all__ = ["least_bounds", "lower_bounds", "quick_bounds"]
