"""A step without a pipeline: each microbatch runs through the whole model in turn."""

import torch
from torch import Tensor
from torch.profiler import record_function

from shardwright.executor.model import StageModule

from .gradient_sync import GradientSync
from .loss import TokenLoss


class Accumulation:
    """Runs forward and backward of each microbatch in turn, accumulating gradients."""

    def __init__(self, stage: StageModule, sync: GradientSync, loss: TokenLoss, *, microbatches: int) -> None:
        self._stage = stage
        self._sync = sync
        self._loss = loss
        self._microbatches = microbatches

    def run(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        """Accumulate gradients of (microbatches * micro_batch, sequence)
        tokens; return the summed loss of this rank. `places`: as in `StageModule.forward`."""
        total = torch.zeros((), device=inputs.device)
        of_documents = [None] * self._microbatches if places is None else places.chunk(self._microbatches)
        each = zip(inputs.chunk(self._microbatches), labels.chunk(self._microbatches), of_documents, strict=True)
        self._loss.expect(labels.chunk(self._microbatches))
        with self._loss.active():
            for index, (tokens, targets, own_places) in enumerate(each):
                self._sync.before_backward(last=index == self._microbatches - 1)
                with record_function(f"0F{index}"):
                    loss = self._loss(self._forward(tokens, own_places), targets)
                with record_function(f"0B{index}"):
                    torch.autograd.backward(loss)
                total += loss.detach()
        return total

    def _forward(self, tokens: Tensor, places: Tensor | None) -> Tensor:
        routers = self._loss.routers
        if routers is None:
            output: Tensor = self._stage(tokens, places)
            return output
        sums: list[Tensor] = []
        with routers.recording(sums):
            output = self._stage(tokens, places)
        routers.expect(sums[0])
        return output
