"""What the offload engine works with: memory within the plan's limits, page-locked buffers, and streams beside the compute."""

from .buffers import BufferPool, pinned, pinned_empty, unpin
from .ledger import Kind, Ledger, Place
from .streams import Stream, Streams, Ticket, hand_over

__all__ = [
    "BufferPool",
    "Kind",
    "Ledger",
    "Place",
    "Stream",
    "Streams",
    "Ticket",
    "hand_over",
    "pinned",
    "pinned_empty",
    "unpin",
]
