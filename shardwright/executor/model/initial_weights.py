"""Initial weights that do not depend on the plan: each module's come from the
seed and its name, by the model's own rule."""

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel


def materialise(
    module: nn.Module, *, name: str, model: PreTrainedModel, seed: int, device: torch.device, draw: bool = True
) -> None:
    """Give `module`, a part of `model` on the meta device, storage on `device` and its initial values.

    `name` is its path in `model`. Each submodule draws from a generator seeded with (seed, path), in the model's own
    distribution. A layer therefore starts the same on every rank, with any other layers beside it. Rotary tables are
    computed anew. Numbers differ between device types, as torch's generators do. Without `draw` parameters are left
    as memory has them, for weights that will be read.
    """
    module.to_empty(device=device)
    for parameter in () if draw else module.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # the mark by which transformers' rules pass it over
    for buffer in module.buffers():
        buffer.zero_()  # until the model's rule sets it
    # children first: GPT-2's rule for a block draws its output projections again
    for path, part in reversed(list(module.named_modules())):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(seed, ".".join(filter(None, (name, path)))))
            model._init_weights(part)  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def materialise_buffers(module: nn.Module, *, model: PreTrainedModel, device: torch.device) -> None:
    """Give `module`, which has no parameters of its own, its buffers on `device`; those of its children stay."""
    for key, buffer in module.named_buffers(recurse=False):
        module._buffers[key] = torch.zeros_like(buffer, device=device)
    model._init_weights(module)  # type: ignore[no-untyped-call]  # likewise


def seed_of(seed: int, path: str) -> int:
    """Return the seed of what lies at `path` of a model."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
