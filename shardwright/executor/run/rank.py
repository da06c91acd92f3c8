"""The run of one rank: its device, its process group, the training in it."""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist

from shardwright.base import StopRequest, threads_per_rank
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.ranks import Watch, join_process_group, say_misplaced
from shardwright.executor.training import RunFolder, Trainer
from shardwright.specs import Measurement

_LATER = 2.0
"""torch's own timeout comes later than the watch, which knows what the other ranks do."""


def run_rank(
    plan_file: PlanFile,
    options: RunOptions,
    folder: RunFolder,
    progress: Callable[[str], None],
    stop: StopRequest,
) -> Measurement:
    """Join the process group that the environment describes, train, and leave it. Rank 0 reports to `progress`.

    Raises:
        RunStoppedError: `stop` was asked of a rank, and the run ended after a step.
        SpecError: the plan, the options or the data are not valid for the run.
        RunFailedError: training diverged.
    """
    device = pick_device(plan_file)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads_per_rank(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    watch = Watch(
        folder.failures,
        rank=int(os.environ["RANK"]),
        ranks=int(os.environ["WORLD_SIZE"]),
        limit_seconds=options.timeout_seconds,
    )
    watch.start()
    join_process_group(device, timeout_seconds=_LATER * options.timeout_seconds)
    try:
        if device.type == "cuda":  # on CPUs a plan for several machines may run on one
            wrong = say_misplaced(plan_file.cluster.node.devices_per_host)
            if wrong and dist.get_rank() == 0:
                progress(f"note: {wrong}")
        trainer = Trainer(plan_file, options, folder, device=device, progress=progress, stop=stop, watch=watch)
        return trainer.run()
    finally:
        watch.close()
        dist.destroy_process_group()


def plans_for_gpus(plan_file: PlanFile) -> bool:
    """Return whether the plan is for GPUs; a machine without them trains it on its CPUs."""
    return plan_file.cluster.node.device.torch_type == "cuda"


def pick_device(plan_file: PlanFile) -> torch.device:
    """Return this rank's GPU where the plan is for GPUs and the machine has them, else the CPU."""
    if plans_for_gpus(plan_file) and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
