"""Run a plan of one rank in a separate process, so that its peak of memory is its own."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

from shardwright.base import RunFailedError, first_failure, threads_per_rank
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.data import open_plan_batches
from shardwright.executor.ranks import STORE
from shardwright.executor.training import RunFolder, RunIdentity, plan_digest
from shardwright.specs import Measurement, read_measurement

TIMEOUT_SECONDS = 300.0


def run_alone(plan_file: PlanFile, options: RunOptions) -> Measurement:
    """Train with a plan of one rank on all cores, in a fresh process, so that the peak memory is its own.

    The worker is the one that a launcher starts. Its output goes to `options.out`/worker.log.

    Raises:
        SpecError: plan, options, data or folder are not valid.
        RunFailedError: the worker failed, or took more than five minutes.
    """
    folder = RunFolder(options.out.absolute())
    data_digest = open_plan_batches(plan_file, options).digest
    identity = RunIdentity(plan_digest=plan_digest(plan_file), data_digest=data_digest, seed=options.seed)
    with folder.locked():
        folder.prepare(plan_file, options, identity)
        _run_worker(folder)
    return read_measurement(folder.measurement)


def _run_worker(folder: RunFolder) -> None:
    log_path = folder.path / "worker.log"
    command = [sys.executable, "-m", "shardwright.executor.run.worker", str(folder.path)]
    with log_path.open("wb") as log:
        try:
            code = subprocess.run(
                command, env=_environment(folder), stdout=log, stderr=log, timeout=TIMEOUT_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"{folder.path}: took more than {TIMEOUT_SECONDS:.0f} s and was ended") from None
    if code:
        failure = first_failure(folder.failures)
        said = failure.message if failure else _last_line(log_path)
        raise RunFailedError(f"{folder.path}: the run failed (exit {code}): {said}")


def _environment(folder: RunFolder) -> dict[str, str]:
    """The environment that a launcher gives a single worker. PYTHONSAFEPATH keeps the current folder from shadowing packages."""
    return os.environ | {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        STORE: str(folder.path / f".store-{secrets.token_hex(8)}"),
        "OMP_NUM_THREADS": str(threads_per_rank(1)),
        "PYTHONSAFEPATH": "1",
    }


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it left no word"
