"""What was trained, out of the checkpoints of a run and into the formats of other software."""

from .adapters import export_adapters

__all__ = ["export_adapters"]
