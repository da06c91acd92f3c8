"""What this machine and this installation have for planning and training, what they lack, and how to get it."""

from .examination import examine
from .finding import Finding, Part, State

__all__ = ["Finding", "Part", "State", "examine"]
