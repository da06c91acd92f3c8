"""The NVIDIA GPUs that this process may use, as nvidia-smi reports them: no torch, no CUDA context."""

import os
import subprocess
from dataclasses import dataclass

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class ReportedGpu:
    """One GPU as reported by the driver. `memory_bytes`: `memory.total`, slightly more than a program can allocate."""

    index: int
    uuid: str
    name: str
    memory_bytes: float


def reported_gpus() -> tuple[ReportedGpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` leaves visible; empty without a driver or a GPU."""
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    gpus = [gpu for line in answer.stdout.splitlines() if (gpu := _parsed(line)) is not None]
    return tuple(_visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES")))


def reported_value(field: str, *, uuid: object = None) -> str | None:
    """Return one field of `nvidia-smi --help-query-gpu`, of the GPU with that UUID
    or of the first; None without an answer."""
    which = () if uuid is None else ("--id", f"GPU-{str(uuid).removeprefix('GPU-')}")
    query = ("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", *which)
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    told = lines[0].strip() if lines else ""
    return None if not told or told.startswith("[") else told


def _parsed(line: str) -> ReportedGpu | None:
    """Parse one line of the answer. None for other lines (warnings) and a memory of `[N/A]` (no GPU to train on)."""
    cells = [cell.strip() for cell in line.split(",")]
    try:
        index, uuid, *name, memory_mib = cells
        return ReportedGpu(int(index), uuid, ", ".join(name), float(memory_mib) * 2**20)
    except ValueError:
        return None


def _visible(gpus: list[ReportedGpu], allowed: str | None) -> list[ReportedGpu]:
    """Apply CUDA's rule: the listed indices or UUID prefixes, in that order, up to the first that names no GPU."""
    if allowed is None:
        return gpus
    seen: list[ReportedGpu] = []
    for word in (part.strip() for part in allowed.split(",")):
        found = next((gpu for gpu in gpus if word and (word == str(gpu.index) or gpu.uuid.startswith(word))), None)
        if found is None:
            break
        seen.append(found)
    return seen
