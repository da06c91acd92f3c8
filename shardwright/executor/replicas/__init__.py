"""Replicas that agree on their weights otherwise than by reducing every gradient in full (`specs.Sync`).

Each replica trains as if it were alone. What is between replicas, of one process group each, is here: compressed gradients and
momentum with error feedback, and local steps with an outer optimizer.
"""

from .agreement import Agreement, OwnUpdate, agreement
from .compression import decoded, encoded

__all__ = ["Agreement", "OwnUpdate", "agreement", "decoded", "encoded"]
