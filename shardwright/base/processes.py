"""How ranks on CPUs share a machine's cores."""

import os


def threads_per_rank(local_ranks: int) -> int:
    """Threads for each of the ranks on this machine, of the cores this process may use; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_ranks)
