"""A rank among the others: how it joins them, and how a run that hangs says which one did not arrive."""

from .arrival import Watch
from .joining import STORE, join_process_group
from .placement import say_misplaced

__all__ = ["STORE", "Watch", "join_process_group", "say_misplaced"]
