"""Memory use of training: activations are kept layer by layer and freed in
reverse, then again with another micro batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

_LAYERS = 3
_FEED_FORWARD = 2.75
_MICRO_BATCHES = (2, 3)


@dataclass(frozen=True)
class ChurnSizes:
    """The sizes of a model: `tokens` of one sequence, `hidden` elements of each."""

    tokens: int
    hidden: int
    dtype: torch.dtype

    def layer_elements(self, micro_batch: int) -> list[int]:
        """Elements that one transformer layer keeps: five tensors as wide as the model,
        three as wide as its feed-forward block."""
        wide = micro_batch * self.tokens * self.hidden
        return [wide] * 5 + [round(_FEED_FORWARD * wide)] * 3

    @property
    def peak_bytes(self) -> float:
        """The most bytes alive at once: all layers, and the gradient of the widest tensor."""
        elements = self.layer_elements(max(_MICRO_BATCHES))
        return self.dtype.itemsize * float(_LAYERS * sum(elements) + max(elements))


def churn(sizes: ChurnSizes, device: torch.device, look: Callable[[], None]) -> float:
    """Run forward and backward of each micro batch; return the most bytes that were alive at once.

    `look` is called after every allocation.
    """
    live_bytes = peak_bytes = 0
    for micro_batch in _MICRO_BATCHES:
        layers: list[list[torch.Tensor]] = []
        for _ in range(_LAYERS):
            layers.append([])
            for elements in sizes.layer_elements(micro_batch):
                layers[-1].append(torch.ones(elements, dtype=sizes.dtype, device=device))
                live_bytes += layers[-1][-1].nbytes
                peak_bytes = max(peak_bytes, live_bytes)
                look()
        while layers:
            kept = layers.pop()
            while kept:
                gradient = torch.ones_like(kept[-1])
                peak_bytes = max(peak_bytes, live_bytes + gradient.nbytes)
                look()
                live_bytes -= kept.pop().nbytes
                del gradient
    return float(peak_bytes)
