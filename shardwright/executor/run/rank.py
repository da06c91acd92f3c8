"""The run of one rank: its device, its process group, the training in it."""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from shardwright.base import threads_per_rank
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.training import RunFolder, Trainer
from shardwright.specs import Measurement


def run_rank(
    plan_file: PlanFile, options: RunOptions, folder: RunFolder, progress: Callable[[str], None]
) -> Measurement:
    """Join the process group of torchrun's environment, train, and leave it. Rank 0 reports to `progress`.

    Raises:
        SpecError: the plan, the options or the data are not valid for the run.
        RunFailedError: training diverged.
    """
    device = pick_device(plan_file)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads_per_rank(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    _join_process_group(device)
    try:
        return Trainer(plan_file, options, folder, device=device, progress=progress).run()
    finally:
        dist.destroy_process_group()


def plans_for_gpus(plan_file: PlanFile) -> bool:
    """Return whether the plan is for GPUs; a machine without them trains it on its CPUs."""
    return plan_file.cluster.node.device.torch_type == "cuda"


def pick_device(plan_file: PlanFile) -> torch.device:
    """Return this rank's GPU where the plan is for GPUs and the machine has them, else the CPU."""
    if plans_for_gpus(plan_file) and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _join_process_group(device: torch.device) -> None:
    """Join the process group. A restarted attempt gets a new store: the old one holds addresses of lost ranks."""
    store, rank, world_size = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore(f"attempt-{attempt}", store), rank=rank, world_size=world_size)
