"""This machine: its GPUs or its CPU, the rates of the CPU, and the stored profiles. Imports no torch."""

from .local import (
    available_memory_bytes,
    last_cache_bytes,
    local_cluster,
    newest_of_this_machine,
    rank_count,
    resolve_cluster,
    this_machine,
)
from .nvidia_smi import ReportedGpu, reported_gpus, reported_value
from .resident import resident_bytes
from .store import default_path, store_folder

__all__ = [
    "ReportedGpu",
    "available_memory_bytes",
    "default_path",
    "last_cache_bytes",
    "local_cluster",
    "newest_of_this_machine",
    "rank_count",
    "reported_gpus",
    "reported_value",
    "resident_bytes",
    "resolve_cluster",
    "store_folder",
    "this_machine",
]
