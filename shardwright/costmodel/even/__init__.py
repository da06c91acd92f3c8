"""TODO"""

from .closed_form import SCHEDULE_NAMES, evaluate_even

__all__ = ["SCHEDULE_NAMES", "evaluate_even"]
