"""Start a plan's run on this machine: check first, then one process a rank under torchrun."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO

import torch

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.measurement import Measurement, read_measurement
from shardwright.costmodel.plan_file import PlanFile, read_plan_file

from .checkpoint import newest_checkpoint, read_manifest
from .failure import RunFailedError, first_failure
from .hugging_face import read_skeleton
from .options import RunOptions
from .run_folder import RunFolder, RunIdentity, plan_digest
from .trainer import open_plan_batches
from .worker import cpu_threads, run_rank

MOST_CPU_RANKS = 8
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0


def launch(plan_path: Path, options: RunOptions, *, progress: Callable[[str], None] = print) -> Measurement:
    """Train with the plan in `plan_path`; returns the measurement, which also lies in `options.out`.

    Everything that can be checked is checked before a process starts or a file is written. In a process that torchrun
    started (RANK is set) this rank trains right here; else torchrun is started with one process a rank. `progress`
    receives the lines that rank 0 tells. A folder that holds the finished run returns its measurement again.

    Raises:
        SpecError: the plan, options, data or folder don't serve.
        RunFailedError: the run began and a rank failed.
    """
    plan_file, options = read_plan_file(plan_path), _from_anywhere(options)
    under_torchrun = "RANK" in os.environ
    _check_ranks(plan_file, options, under_torchrun)
    read_skeleton(plan_file)
    folder = RunFolder(options.out)
    identity = RunIdentity(
        plan_digest=plan_digest(plan_file),
        data_digest=open_plan_batches(plan_file, options).digest,
        seed=options.seed,
    )
    folder.check(identity, options)
    finished = _finished(folder, plan_file, options)
    if finished:
        progress(f"{folder.path}: already holds all {options.steps} steps; give more steps to go on")
        return finished
    if under_torchrun:
        return _run_this_rank(plan_file, options, folder, identity)
    with folder.locked():
        folder.prepare(plan_file, options, identity)
        _run_torchrun(folder, plan_file.plan.mesh.ranks, options.restarts, progress)
    return read_measurement(folder.measurement)


def _from_anywhere(options: RunOptions) -> RunOptions:
    """The same options with absolute paths, for workers need not start in this folder."""
    absolute = {
        "out": options.out.absolute(),
        "data": tuple(path.absolute() for path in options.data),
        "resume_from": options.resume_from and options.resume_from.absolute(),
    }
    return options.model_copy(update=absolute)


def _check_ranks(plan_file: PlanFile, options: RunOptions, under_torchrun: bool) -> None:
    plan, training = plan_file.plan, plan_file.training
    needed = plan.mesh.ranks
    if under_torchrun:
        offered, offer = int(os.environ["WORLD_SIZE"]), "this launch has"
        suits = needed == offered
    else:
        offered, offer = _offered_ranks(plan_file) if options.ranks is None else (options.ranks, "the run is given")
        suits = needed <= offered
    if not suits:
        raise SpecError(
            f"the plan needs {needed} ranks ({plan.mesh}) and {offer} {offered}; plan for {offered}, or run it where there are {needed}"
        )
    if plan.global_batch != training.global_batch:
        raise SpecError(
            f"the plan makes a global batch of {plan.global_batch} sequences (dp {plan.mesh.dp} x micro_batch {plan.micro_batch} x microbatches {plan.microbatches}) and training asks for {training.global_batch}; plan again"
        )


def _offered_ranks(plan_file: PlanFile) -> tuple[int, str]:
    if plan_file.cluster.groups[0].device.kind == "gpu" and torch.cuda.is_available():
        return torch.cuda.device_count(), "this machine's GPUs are"
    return MOST_CPU_RANKS, "a machine without GPUs runs at most"


def _finished(folder: RunFolder, plan_file: PlanFile, options: RunOptions) -> Measurement | None:
    """The measurement of a run that has nothing left to do.

    Raises:
        SpecError: what it would continue from can't be taken up, or is past the last step already.
    """
    own = newest_checkpoint(folder.checkpoints)
    start = own or options.resume_from
    if start is None:
        return None
    step = read_manifest(start, plan_file).step
    if step < options.steps:
        return None
    if own and step == options.steps and folder.measurement.is_file():
        return read_measurement(folder.measurement)
    raise SpecError(f"{start}: is of step {step} and the run is to end at step {options.steps}; give more steps")


def _run_this_rank(plan_file: PlanFile, options: RunOptions, folder: RunFolder, identity: RunIdentity) -> Measurement:
    if os.environ["RANK"] != "0":
        return run_rank(plan_file, options, folder)
    with folder.locked():
        folder.prepare(plan_file, options, identity)
        return run_rank(plan_file, options, folder)


def _run_torchrun(folder: RunFolder, ranks: int, restarts: int, progress: Callable[[str], None]) -> None:
    """Run the workers to their end.

    Raises:
        SpecError, RunFailedError: a rank left a failure, or ended without a word.
    """
    folder.logs.mkdir(exist_ok=True)
    log = folder.logs / "torchrun.log"
    with log.open("wb") as stderr, _running(_command(folder, ranks, restarts), ranks, stderr) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=_forward, args=(process.stdout, progress), daemon=True)
        reader.start()
        while process.poll() is None:
            failure = first_failure(folder.failures)
            if failure is not None and failure.kind == "spec":  # no restart mends it
                break
            time.sleep(_POLL_SECONDS)
        else:
            reader.join()
    if process.returncode == 0:
        return
    failure = first_failure(folder.failures)
    if failure is None:
        raise RunFailedError(f"a rank ended without a word; was it killed, for want of memory? See {folder.logs}")
    if failure.kind == "spec":
        raise SpecError(failure.message)
    raise RunFailedError(f"rank {failure.rank} failed: {failure.message}. See {folder.logs} and {folder.failures}")


def _command(folder: RunFolder, ranks: int, restarts: int) -> list[str]:
    """Workers' stderr goes to files: a user's mistake is told once, in one line, by the launcher."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    logs = [f"--max-restarts={restarts}", f"--log-dir={folder.logs}", "--redirects=2"]
    return [*torchrun, *logs, "-m", "shardwright.executor.worker", str(folder.path)]


@contextlib.contextmanager
def _running(command: list[str], ranks: int, stderr: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """The process while the block runs; ended with the block, also by Ctrl-C or SIGTERM.

    PYTHONSAFEPATH: a folder `executor` or `profiler` where the user happens to stand is not imported. The session of
    its own keeps Ctrl-C from reaching the workers except through here.
    """
    environment = os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(cpu_threads(ranks))}
    with _terminable():
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            _stop(process)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C does. Only the main thread may say so; elsewhere its owner decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(process: subprocess.Popen[str]) -> None:
    """torchrun passes SIGTERM on to its workers; workers that outlive it end by themselves."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _forward(lines: IO[str], progress: Callable[[str], None]) -> None:
    for line in lines:
        progress(line.rstrip("\n"))
