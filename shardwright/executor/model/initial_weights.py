"""Initial weights that do not depend on the plan: each module's come from the
seed and its name, by the model's own rule. So do rotary tables, by the length of the plan's sequences."""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

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
        with drawing_from(seed_of(seed, ".".join(filter(None, (name, path)))), device):
            model._init_weights(part)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        _settle(part, device)


def materialise_buffers(module: nn.Module, *, model: PreTrainedModel, device: torch.device) -> None:
    """Give `module`, which has no parameters of its own, its buffers on `device`; those of its children stay."""
    for key, buffer in module.named_buffers(recurse=False):
        module._buffers[key] = torch.zeros_like(buffer, device=device)
    model._init_weights(module)  # type: ignore[no-untyped-call]  # likewise
    _settle(module, device)


def settle_rotation(model: PreTrainedModel, seq_len: int) -> None:
    """Let rotary tables of `model` that follow the longest position at hand be those of `seq_len` tokens, whatever is at hand.

    transformers chooses frequencies by the largest position of each forward pass ("longrope", "dynamic": modeling_rope_utils.py,
    dynamic_rope_update). Ranks that hold parts of a sequence, and microbatches of other documents, would choose differently. Tables get
    their values where they are materialised.
    """
    for module in model.modules():
        if _following(module):
            own: Any = module
            own.settled_seq_len = seq_len
            own.forward = MethodType(inspect.unwrap(type(own).forward), own)


def _following(module: nn.Module) -> list[str | None]:
    """Return the kinds of layers whose table in `module` follows the length; None stands for all layers alike."""
    kinds: Any = getattr(module, "rope_type", None)
    by_layer = kinds if isinstance(kinds, dict) else {None: kinds}
    return [layer for layer, kind in by_layer.items() if kind == "longrope" or "dynamic" in str(kind)]


def _settle(module: Any, device: torch.device) -> None:
    """Let transformers' own rule choose the frequencies for the last position of a settled sequence."""
    seq_len = vars(module).get("settled_seq_len")
    if seq_len is None:
        return
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)  # an earlier stage of this rank may have settled it
    last = torch.tensor([[seq_len - 1]], device=device)
    for layer in _following(module):
        of_layer = {} if layer is None else {"layer_type": layer}
        type(module).forward(module, torch.zeros((), device=device), last, **of_layer)


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Draw what is inside from `seed`, on the host and on `device`, and leave their generators as they were.

    `torch.manual_seed` would also seed devices that nothing here uses, and write down the stack for each (torch/cuda, _lazy_call): a
    third of the time in which a small model is built.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def seed_of(seed: int, path: str) -> int:
    """Return the seed of what lies at `path` of a model."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
