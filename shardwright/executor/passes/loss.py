"""Cross-entropy over a step's tokens, whose logits may be divided over tp by vocabulary."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

from shardwright.base import SpecError
from shardwright.executor.routers import RouterLoss

IGNORED_LABEL = -100
"""A label that the loss ignores, as in torch's `cross_entropy`."""

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""From logits (batch, sequence, vocabulary), fp32, and labels (batch, sequence) to the scalar sum of a loss over tokens."""

LOSS = "shardwright::loss"
"""The name of the loss in traces."""


class TokenLoss:
    """One microbatch's part of the step's loss: its summed cross-entropy, or what `function` sums in its place, times `scale`.

    `scale` is set for each step: ranks of dp and cp / tokens in the global batch. Gradients are averaged over
    those ranks, so they equal those of the mean over the global batch's tokens.
    With several `chunks` the head computes the loss (`chunked_loss.py`). `routers`: of a loss on routers, which is added.
    """

    def __init__(
        self, *, vocab_size: int, tp_mesh: DeviceMesh | None, chunks: int = 1, function: LossFunction | None = None
    ) -> None:
        self.vocab_size, self._function = vocab_size, function
        self.tp_mesh = tp_mesh
        self.scale = 1.0
        self.chunks = chunks
        self._upcoming: deque[Tensor] = deque()
        self.routers: RouterLoss | None = None

    def expect(self, labels: Sequence[Tensor]) -> None:
        """Say the labels of a step's microbatches, in the order in which the head will see them."""
        self._upcoming = deque(labels)

    def next_labels(self) -> Tensor:
        """Return the labels of the microbatch that the head is given next."""
        return self._upcoming.popleft()

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of what the last stage returns, its logits; in chunks the head has computed it already."""
        loss = self.of_logits(output, labels) if self.chunks == 1 else output.sum()
        return loss if self.routers is None else loss + self.routers.next_loss()

    def of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (batch, sequence, vocabulary / tp) and labels (batch, sequence).

        Raises:
            SpecError: the function returns something else.
        """
        if self._function is not None:
            return self._by_function(self._function, logits, labels)
        logits = self._over_tp(logits.float().flatten(0, 1))
        with torch.profiler.record_function(LOSS):
            total = torch.nn.functional.cross_entropy(
                logits, labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
            )
        return (total.to_local() if isinstance(total, DTensor) else total) * self.scale

    def _by_function(self, function: LossFunction, logits: Tensor, labels: Tensor) -> Tensor:
        """Every rank of tp computes the whole loss, of gathered logits, and keeps the gradient of its part."""
        whole = self._over_tp(logits.float().flatten(0, 1))
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        with torch.profiler.record_function(LOSS):
            found = function(whole.view(*logits.shape[:-1], -1), labels)
        if not isinstance(found, Tensor) or found.shape:
            what = f"a tensor of {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise SpecError(f"the loss returns {what}; return its sum over the tokens, a scalar tensor")
        return found * self.scale

    def _over_tp(self, logits: Tensor) -> Tensor:
        """Return logits (tokens, vocabulary / tp) as what they are a part of."""
        if self.tp_mesh is None:
            return logits
        shape = torch.Size((logits.shape[0], self.vocab_size))
        return DTensor.from_local(
            logits, self.tp_mesh, [Shard(1)], run_check=False, shape=shape, stride=(self.vocab_size, 1)
        )

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Forward and backward passes of the loss run inside this context."""
        if self.tp_mesh is None:
            yield
        else:
            with loss_parallel():
                yield
