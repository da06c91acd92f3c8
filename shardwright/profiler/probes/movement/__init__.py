"""Probes of data movement and memory: collectives, host copies, disks, overlaps, and memory outside tensors."""

from .collective import collective_probes
from .disk import disk_probes
from .host_copy import host_copy_probes
from .memory import memory_probes
from .overlap import CollectiveOverlapProbe, CopyOverlapProbe

__all__ = [
    "CollectiveOverlapProbe",
    "CopyOverlapProbe",
    "collective_probes",
    "disk_probes",
    "host_copy_probes",
    "memory_probes",
]
