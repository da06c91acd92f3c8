"""Measures the rates of this CPU host with `ranks` processes at once, the load of a run."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from shardwright.base import SpecError

from .cpu_rates import CpuRates, CpuSetting

_TIMEOUT_SECONDS = 120.0
_MEANS = (
    "fp32_flops_per_s",
    "bf16_flops_per_s",
    "fp32_attention_flops_per_s",
    "bf16_attention_flops_per_s",
    "elementwise_bytes_per_s",
    "copy_bytes_per_s",
    "dispatch_seconds",
    "process_bytes",
    "cpu_share",
)


def measure_cpu(setting: CpuSetting, *, seconds: float = 3.0) -> CpuRates:
    """Measure for about `seconds`, plus the time to start `setting.ranks` processes with torch.

    Raises:
        SpecError: a process failed; its last line is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        _run_ranks(setting, seconds, Path(folder))
        seen = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(setting.ranks)]
    latency_seconds, link_bytes_per_s = None, None
    if setting.ranks > 1:
        sizes = [int(size) for size in seen[0]["all_reduce_seconds"]]
        by_size = {size: _mean(rank["all_reduce_seconds"][str(size)] for rank in seen) for size in sizes}
        latency_seconds, link_bytes_per_s = fit_link(by_size, setting.ranks)
    return CpuRates(
        setting=setting,
        date=datetime.now(UTC).date().isoformat(),
        link_bytes_per_s=link_bytes_per_s,
        link_latency_seconds=latency_seconds,
        **{field: _mean(rank[field] for rank in seen) for field in _MEANS},
    )


def fit_link(seconds_by_size_bytes: Mapping[int, float], ranks: int) -> tuple[float, float]:
    """Return latency in seconds and rate in bytes/s of a link, from all-reduces of several sizes over `ranks` ranks.

    Inverts the ring of the cost model (Thakur et al. 2005): seconds = (2 n - 1) latency + 2 (n - 1)/n size / rate, with
    one start and 2 (n - 1) steps. Least squares of the relative error, both terms non-negative.
    """
    from scipy.optimize import nnls  # imported here, because this import takes longer than reading remembered rates

    size_bytes = np.array(list(seconds_by_size_bytes), dtype=float)
    seconds = np.array(list(seconds_by_size_bytes.values()), dtype=float)
    terms = np.stack([np.full_like(size_bytes, 2 * ranks - 1), 2 * (ranks - 1) / ranks * size_bytes], axis=1)
    (latency, seconds_per_byte), _ = nnls(terms / seconds[:, None], np.ones_like(seconds))
    if seconds_per_byte <= 0:  # times that fall with size are noise: use the rate of the largest message
        largest = int(np.argmax(size_bytes))
        return float(latency), float(terms[largest, 1] / seconds[largest])
    return float(latency), float(1 / seconds_per_byte)


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _run_ranks(setting: CpuSetting, seconds: float, folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads)}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works also where the host name does not resolve
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(setting.ranks):
            numbers = [str(number) for number in (rank, setting.ranks, setting.threads, seconds)]
            with (folder / f"rank-{rank}.log").open("wb") as log:
                # -P: a folder named `profiler` in the user's working directory must not be imported instead of ours
                command = [sys.executable, "-P", "-m", "shardwright.profiler.machine.cpu_worker", *numbers, str(folder)]
                workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        _await(workers, folder)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def _await(workers: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while any(worker.poll() is None for worker in workers):
        if any(worker.poll() for worker in workers):
            break
        if time.monotonic() > deadline:
            raise SpecError(f"measuring this machine's CPU did not end within {_TIMEOUT_SECONDS:.0f} s")
        time.sleep(0.05)
    for rank, worker in enumerate(workers):
        if worker.poll():
            words = (folder / f"rank-{rank}.log").read_text(errors="replace").strip().splitlines() or ["no message"]
            raise SpecError(f"measuring this machine's CPU failed (rank {rank}, exit {worker.returncode}): {words[-1]}")
