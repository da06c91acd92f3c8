"""Cross-entropy over a step's tokens, whose logits may be divided over tp by vocabulary."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

IGNORED_LABEL = -100
"""A label that the loss ignores, as in torch's `cross_entropy`."""


class TokenLoss:
    """One microbatch's part of the step's loss: its summed cross-entropy times `scale`.

    `scale` is set for each step: ranks of dp and cp / tokens in the global batch. Gradients are averaged over
    those ranks, so they equal those of the mean over the global batch's tokens.
    """

    def __init__(self, *, vocab_size: int, tp_mesh: DeviceMesh | None) -> None:
        self.vocab_size = vocab_size
        self.tp_mesh = tp_mesh
        self.scale = 1.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (batch, sequence, vocabulary / tp) and labels (batch, sequence)."""
        logits = logits.float().flatten(0, 1)
        if self.tp_mesh is not None:
            shape = torch.Size((logits.shape[0], self.vocab_size))
            logits = DTensor.from_local(
                logits, self.tp_mesh, [Shard(1)], run_check=False, shape=shape, stride=(self.vocab_size, 1)
            )
        total = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
        return (total.to_local() if isinstance(total, DTensor) else total) * self.scale

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Forward and backward passes of the loss run inside this context."""
        if self.tp_mesh is None:
            yield
        else:
            with loss_parallel():
                yield
