"""The reference work: its changes are those of the machine, so it is timed
repeatedly while everything else is measured."""

import torch

from .probe import Machine, Work


def reference_work(machine: Machine) -> Work:
    """Return a matmul of some milliseconds on a CPU, some tenths of one on a GPU."""
    on_cpu = machine.device.type == "cpu"
    size, dtype = (512, torch.float32) if on_cpu else (4096, torch.bfloat16)
    left, right = (torch.ones(size, size, device=machine.device, dtype=dtype) for _ in range(2))
    return lambda: left @ right
