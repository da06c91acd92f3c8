"""The host, its disks and limits, the programs beside torch, and the profile of this machine."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from shardwright.base import cpu_model, install, units, usable_cores
from shardwright.profiler.machine import available_memory_bytes, newest_of_this_machine, reported_gpus

from .finding import Finding

_CHECKPOINT_BYTES = 12  # a parameter and AdamW's two moments in fp32
_SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED_BYTES = 2**30  # NCCL user guide, "Troubleshooting", "Docker": --shm-size=1g --ulimit memlock=-1
_LAUNCHERS = {
    "sbatch": "Slurm, for launch --slurm",
    "kubectl": "Kubernetes, for launch --kubernetes",
    "ssh": "for launch --ssh",
    "torchrun": "for launch --torchrun",
}


def host() -> Finding:
    """The cores and the memory that this process may use."""
    memory = f", {units.size(available_memory_bytes())} available" if find_spec("psutil") else ""
    return Finding("planning", "host", "there", f"{cpu_model()}, {usable_cores()} cores{memory}")


def profile() -> Finding:
    """The newest profile from which predictions for this machine come. What fits this machine is not known without psutil."""
    if not find_spec("psutil"):
        return Finding("planning", "profile", "limited", "not looked for, as psutil is missing", install("run"))
    found = newest_of_this_machine()
    if found is None:
        advice = (
            "estimates for --cluster local rest on data sheets and a few measurements; for more: shardwright profile"
        )
        return Finding("planning", "profile", "limited", "none", advice)
    path, newest = found
    return Finding("planning", "profile", "there", f"{path.name}, of {newest.fingerprint.date[:10]}")


def compiler() -> Finding:
    """What `run --compile on` needs: Triton for GPUs, a C++ compiler for CPUs."""
    if reported_gpus():
        if find_spec("triton"):
            return Finding("optional", "triton", "there", "found")
        return Finding("optional", "triton", "missing", "not found", "run --compile on needs it: pip install triton")
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return Finding("optional", "C++ compiler", "there", path)
    advice = "run --compile on needs one: install g++, or name yours in CXX"
    return Finding("optional", "C++ compiler", "missing", "not found", advice)


def disks() -> Iterator[Finding]:
    """Yield the free space where runs and temporary files go, and the checkpoint that fits in the first."""
    here, temporary = Path.cwd(), Path(tempfile.gettempdir())
    free = shutil.disk_usage(here).free
    room = f"{here}: {units.size(free)} free, a checkpoint of {units.amount(free / _CHECKPOINT_BYTES)} parameters"
    yield _disk("this folder", here, room)
    yield _disk("temporary files", temporary, f"{temporary}: {units.size(shutil.disk_usage(temporary).free)} free")


def _disk(name: str, folder: Path, room: str) -> Finding:
    if os.access(folder, os.W_OK):
        return Finding("training", name, "there", room)
    return Finding("training", name, "limited", room, "may not be written by this user")


def limits() -> Iterator[Finding]:
    """Yield what ranks share and page-lock on a machine with GPUs."""
    if not reported_gpus():
        return
    if _SHARED_MEMORY.is_dir():
        total = shutil.disk_usage(_SHARED_MEMORY).total
        little = total < _LEAST_SHARED_BYTES
        advice = "NCCL may fail; start the container with --shm-size=1g or more" if little else None
        yield Finding("training", "shared memory", "limited" if little else "there", units.size(total), advice)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    free = locked == resource.RLIM_INFINITY
    advice = None if free else "InfiniBand may fail; set ulimit -l unlimited (containers: --ulimit memlock=-1)"
    told = "unlimited" if free else units.size(locked)
    yield Finding("training", "page-locked memory", "there" if free else "limited", told, advice)


def launchers() -> Iterator[Finding]:
    """Yield the programs that start a run on several machines; none is needed on one."""
    for name, purpose in _LAUNCHERS.items():
        path = shutil.which(name)
        advice = None if path else purpose
        yield Finding("several machines", name, "there" if path else "missing", path or "not on PATH", advice)
