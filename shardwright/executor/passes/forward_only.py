"""Forward passes without gradients, through all stages of the plan."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from shardwright.executor.model import StageModule
from shardwright.specs import Plan

from .loss import TokenLoss


class ForwardOnly:
    """Runs microbatches through the stages in turn. A stage sends on before it takes its next microbatch, so the pipeline fills.

    `hidden`: an example of what stages exchange, on the meta device; None without a pipeline.
    """

    def __init__(
        self, plan: Plan, stages: Mapping[int, StageModule], loss: TokenLoss, mesh: DeviceMesh, hidden: Tensor | None
    ) -> None:
        self._plan, self._stages, self._loss, self._hidden = plan, stages, loss, hidden
        self._device = torch.device(mesh.device_type)
        self._group = mesh.get_group("pp")

    def run(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        """Return this rank's summed loss of (microbatches * micro_batch, sequence) tokens; only the last stage has one."""
        count = self._plan.microbatches
        of_documents = [None] * count if places is None else places.chunk(count)
        total = torch.zeros((), device=self._device)
        self._loss.expect(labels.chunk(count))
        with torch.no_grad(), self._loss.active(), self._freed():
            for tokens, targets, own_places in zip(inputs.chunk(count), labels.chunk(count), of_documents, strict=True):
                output = self._through(tokens, own_places)
                if output is not None:
                    total += self._loss(output, targets)
        return total

    def _through(self, tokens: Tensor, places: Tensor | None) -> Tensor | None:
        """Take one microbatch through this rank's stages; return what the last stage of all returns, if it is here."""
        own, given, last = self._plan.stage_ranks, tokens, len(self._plan.stages) - 1
        for index, rank in enumerate(own):
            if index not in self._stages:
                continue
            if index and own[index - 1] != rank:
                assert self._hidden is not None
                given = torch.empty(self._hidden.shape, dtype=self._hidden.dtype, device=self._device)
                dist.recv(given, self._global(own[index - 1]), group=self._group)
            given = self._stages[index](given, places=places)
            if index < last and own[index + 1] != rank:
                dist.send(given.contiguous(), self._global(own[index + 1]), group=self._group)
        return given if last in self._stages else None

    def _global(self, pipeline_rank: int) -> int:
        return dist.get_global_rank(self._group, pipeline_rank)

    @contextlib.contextmanager
    def _freed(self) -> Iterator[None]:
        """Free what was gathered: no backward pass does it here, and a checkpoint saves shards."""
        yield
        for stage in self._stages.values():
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
