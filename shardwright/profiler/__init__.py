"""What this machine is and how fast it is."""

from shardwright.profiler.machine.local import local_cluster, resolve_cluster

__all__ = ["local_cluster", "resolve_cluster"]
