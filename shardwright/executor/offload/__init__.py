"""The offload engine: shares of optimizer, gradients, weights and activations on the host, and state on its drives.

A step moves gradients down and parameters up beside the passes, and updates on the host what lies there. Updates equal those of the same
plan without offload bit for bit, where device and host compute alike.
"""

from .contents import BEFORE_UPDATE, Contents
from .engine import OffloadEngine
from .placement import Room, streamed_layers
from .resources import Kind, Ledger, Place, Streams
from .rule import UpdateRule
from .shards import park

__all__ = [
    "BEFORE_UPDATE",
    "Contents",
    "Kind",
    "Ledger",
    "OffloadEngine",
    "Place",
    "Room",
    "Streams",
    "UpdateRule",
    "park",
    "streamed_layers",
]
