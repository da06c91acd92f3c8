"""The recurrence of linear attention in chunks, per token and before any split over tp: its FLOPs, what it keeps, and what it moves."""

from .flops import recurrence_flops
from .memory import recurrence_bytes, recurrence_moved_bytes

__all__ = ["recurrence_bytes", "recurrence_flops", "recurrence_moved_bytes"]
