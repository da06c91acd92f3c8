"""The start of a plan's run: check everything first, then train in this process or start torchrun."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, read_plan_file
from shardwright.executor import RunOptions, check_can_run
from shardwright.executor.context import check_context
from shardwright.executor.model import (
    check_experts,
    check_tensor_parallel,
    lacks_fused_attention,
    read_config,
    read_skeleton,
)
from shardwright.executor.parallel import check_loss_chunks, check_split_backward
from shardwright.executor.training import RunFolder, RunIdentity, open_plan_batches, plan_digest
from shardwright.specs import Measurement, read_measurement

from .rank import plans_for_gpus, run_rank
from .torchrun import run_torchrun

MOST_CPU_RANKS = 8


def launch(plan_path: Path, options: RunOptions, *, progress: Callable[[str], None] = print) -> Measurement:
    """Train with the plan in `plan_path`; return the measurement, which is also written to `options.out`.

    Everything that can be checked is checked before a process starts or a file is written. In a process that torchrun
    started (RANK is set) this rank trains in this process. Otherwise torchrun is started with one process for each
    rank. `progress` receives the lines that rank 0 tells. If the folder holds the finished run, its measurement is
    returned again.

    Raises:
        SpecError: the plan, options, data or folder are not valid for the run.
        RunFailedError: the run began and a rank failed.
        SystemExit: with 2, on the other ranks of a torchrun, instead of a SpecError that rank 0 also raises.
    """
    leads, folder = os.environ.get("RANK", "0") == "0", RunFolder(options.out.absolute())
    try:
        plan_file, options = read_plan_file(plan_path), _from_anywhere(options)
        _check_plan(plan_file, options)
        identity = RunIdentity(
            plan_digest=plan_digest(plan_file),
            data_digest=open_plan_batches(plan_file, options).digest,
            seed=options.seed,
        )
        if leads:
            folder.check(identity, options)
        start = folder.start(plan_file, options)
    except SpecError:
        if not leads:
            raise SystemExit(2) from None
        raise
    if start.step == options.steps:
        progress(f"{folder.path}: already holds all {options.steps} steps; give more steps to go on")
        return read_measurement(folder.measurement)
    if plans_for_gpus(plan_file) and not torch.cuda.is_available() and leads:
        progress("no GPU here: training on this machine's CPUs; the plan's prediction is for GPUs")
    if leads and plan_file.training.attention == "flash" and lacks_fused_attention(read_config(plan_file)):
        progress(
            f"transformers has no fused attention for {plan_file.model_name}: it runs unfused, and the plan's prediction is for a fused kernel"
        )
    if not leads:
        return run_rank(plan_file, options, folder, progress)
    with folder.locked():
        folder.prepare(plan_file, options, identity)
        if "RANK" in os.environ:
            return run_rank(plan_file, options, folder, progress)
        run_torchrun(folder, plan_file.plan.mesh.ranks, options.restarts, progress)
    return read_measurement(folder.measurement)


def _from_anywhere(options: RunOptions) -> RunOptions:
    """Return the same options with absolute paths, because workers may start in another folder."""
    absolute = {
        "out": options.out.absolute(),
        "data": tuple(path.absolute() for path in options.data),
        "resume_from": options.resume_from and options.resume_from.absolute(),
        "offload_folder": options.offload_folder and options.offload_folder.absolute(),
    }
    return options.model_copy(update=absolute)


def _check_plan(plan_file: PlanFile, options: RunOptions) -> None:
    """Check the plan against the engine, the ranks and its training.

    Raises:
        SpecError: the engine does not run or train a choice or the model yet; there are too few ranks; the batch is not
            that of the training; a split backward does not run with the plan.
    """
    check_can_run(plan_file)
    plan, training = plan_file.plan, plan_file.training
    needed, (offered, offer) = plan.mesh.ranks, _offered_ranks(plan_file, options)
    if needed > offered or ("RANK" in os.environ and needed != offered):
        raise SpecError(
            f"the plan needs {needed} ranks ({plan.mesh}) and {offer} {offered}; plan for {offered}, or run it where there are {needed}"
        )
    if plan.global_batch != training.global_batch:
        raise SpecError(
            f"the plan makes a global batch of {plan.global_batch} sequences (dp {plan.mesh.dp} x micro_batch {plan.micro_batch} x microbatches {plan.microbatches}) and its training asks for {training.global_batch}; plan again"
        )
    skeleton = read_skeleton(plan_file)
    check_tensor_parallel(plan_file, skeleton)
    check_split_backward(plan, tied=skeleton.tied)
    check_context(plan_file, skeleton)
    check_experts(plan_file, skeleton)
    check_loss_chunks(plan_file, skeleton)


def _offered_ranks(plan_file: PlanFile, options: RunOptions) -> tuple[int, str]:
    """Return the number of available ranks, and words for a message that say why."""
    if "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"]), "torchrun was started with"
    if plans_for_gpus(plan_file) and torch.cuda.is_available():
        present = torch.cuda.device_count()
        return min(present, options.ranks or present), "the GPUs to run on are"
    if options.ranks is not None:
        return options.ranks, "the options offer"
    return MOST_CPU_RANKS, "on CPUs one machine runs at most"
