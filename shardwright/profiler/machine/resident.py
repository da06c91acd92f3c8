"""Memory of a training process before its model. torch is imported only on request, because its size is measured."""

import importlib
import importlib.util

_RUN_LIBRARIES = (
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed.checkpoint",
    "transformers.models.llama.modeling_llama",
)


def resident_bytes() -> float:
    """Return the bytes that a training process holds before its model.

    They are the libraries that a run imports and the remains of a first step: threads, buffers of kernels, and code
    that is loaded at its first call.
    """
    import psutil

    for library in _RUN_LIBRARIES:
        if importlib.util.find_spec(library.partition(".")[0]):
            importlib.import_module(library)
    _first_step()
    return float(psutil.Process().memory_info().rss)


def _first_step() -> None:
    """Run a matmul, attention, a loss, their gradients and an update, of half a megabyte each."""
    import torch

    layer = torch.nn.Linear(256, 1024)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    heads = layer(torch.ones(512, 256)).view(1, 512, 16, 64).transpose(1, 2)
    attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    logits = attended.transpose(1, 2).reshape(512, 1024)
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, torch.zeros(512, dtype=torch.long)))
    optimizer.step()
