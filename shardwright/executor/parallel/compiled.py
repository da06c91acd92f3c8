"""Layers compiled by torch.compile, one at a time, so that FSDP's hooks and the pipeline stay outside."""

import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import nn

from shardwright.base import SpecError
from shardwright.executor import Compile
from shardwright.specs import Plan, splits_backward

BACKEND = "inductor"


def compiles(choice: Compile, device: torch.device) -> bool:
    """Return whether layers are compiled on `device`; "auto" compiles on GPUs alone."""
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def check_compile(plan: Plan, choice: Compile, device: torch.device) -> None:
    """Check that this machine can compile for `device`, and that the plan's schedule runs compiled layers.

    Raises:
        SpecError: one line that names what is missing.
    """
    if not compiles(choice, device):
        return
    if splits_backward(plan.schedule) and plan.mesh.pp > 1:
        raise SpecError(
            f"a compiled layer computes all its gradients at once, which {plan.schedule} splits; run with --compile off, or plan with 1f1b"
        )
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise SpecError("torch.compile needs triton on a GPU, which is not installed; run with --compile off")
    elif shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise SpecError(
            f"torch.compile needs a C++ compiler on a CPU, and there is no {compiler}; install one, set CXX, or run with --compile off"
        )


def compile_layer(layer: nn.Module) -> None:
    """Compile a layer in place, before it is sharded. What cannot be compiled in it runs as it is."""
    own: Any = layer
    own.compile(backend=BACKEND)
