"""A step through a pipeline: torch's schedules over this rank's stages, and the embedding that two stages share."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleLoopedBFS,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle
from torch.distributed.tensor import DTensor

from shardwright.executor.model import StageModule
from shardwright.executor.routers import RouterLoss
from shardwright.specs import Plan, ScheduleName, splits_backward

from .gradient_sync import GradientSync
from .loss import TokenLoss
from .receive_buffers import LeanStage
from .split_backward import SplitBackwardSchedule


class _AnyMicrobatches(Schedule1F1B):
    """1F1B of any number of microbatches. torch's refuses fewer than stages, though it runs them in the right order."""

    def __init__(self, stage: PipelineStage, n_microbatches: int, *, loss_fn: TokenLoss, scale_grads: bool) -> None:
        PipelineScheduleSingle.__init__(self, stage, n_microbatches, loss_fn=loss_fn, scale_grads=scale_grads)


_SCHEDULES: dict[ScheduleName, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": _AnyMicrobatches,
    "interleaved-1f1b": ScheduleInterleaved1F1B,
    "breadth-first": ScheduleLoopedBFS,
}


class _SyncedStage(LeanStage):
    """A pipeline stage whose gradients are reduced as the plan's ZeRO stages require.

    torch's own stage treats every FSDP module alike: nothing is freed or reduced before the last backward pass. It
    finds none here, because the module is wrapped. The plan's own rule is set up before each backward pass.
    """

    def __init__(self, sync: GradientSync, microbatches: int, stage: nn.Module, *args: Any, **options: Any) -> None:
        super().__init__(stage, *args, **options)
        self._sync, self._last = sync, microbatches - 1

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            self._sync.before_forward(last=fwd_chunk_id == self._last)
        return super().forward_one_chunk(fwd_chunk_id, *args, **options)

    def backward_maybe_with_nosync(
        self, backward_type: Any, bwd_kwargs: dict[str, Any], last_backward: bool = False
    ) -> Any:
        self._sync.before_backward(last=last_backward)
        return super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)


class _Wrapped(nn.Module):
    """A stage that torch's own stage does not see as an FSDP module."""

    def __init__(self, stage: StageModule) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *given: Tensor, places: Tensor | None = None) -> Any:
        return self.stage(*given, places=places)


def _hand_on_sums(stage: StageModule, routers: RouterLoss) -> None:
    """Let a stage take and return the sums of routers beside hidden states, while it trains. The last one leaves them to the loss."""
    plain = stage.forward

    def forward(given: Tensor, sums: Tensor | None = None, places: Tensor | None = None) -> Any:
        if not torch.is_grad_enabled():
            return plain(given, places)
        own: list[Tensor] = []
        with routers.recording(own):
            output = plain(given, places)
        whole = own[0] if sums is None else sums + own[0]
        if not stage.is_last:
            return output, whole
        routers.expect(whole)
        return output

    own_stage: Any = stage
    own_stage.forward = forward


class Pipeline:
    """Runs the plan's schedule over this rank's stages; `hidden` and `logits` are examples of what stages exchange.

    Both are on the meta device: (micro_batch, sequence / tp or sequence, hidden), and the last stage's output.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Mapping[int, StageModule],
        syncs: Mapping[int, GradientSync],
        loss: TokenLoss,
        *,
        mesh: DeviceMesh,
        hidden: Tensor,
        logits: Tensor,
        tokens: Tensor,
    ) -> None:
        last = len(plan.stages) - 1
        self._loss = loss
        self._microbatches = plan.microbatches
        self._first, self._last = 0 in stages, last in stages
        split = splits_backward(plan.schedule)
        routers = loss.routers
        handed_on: Any = hidden
        if routers is not None:
            handed_on = (hidden, routers.example)
            for stage in stages.values():
                _hand_on_sums(stage, routers)
        chunks: list[PipelineStage] = [
            (LeanStage if split else partial(_SyncedStage, syncs[index], plan.microbatches))(
                stage if split else _Wrapped(stage),
                index,
                len(plan.stages),
                torch.device(mesh.device_type),
                input_args=tokens if index == 0 else handed_on,
                output_args=logits if index == last else handed_on,
                group=mesh.get_group("pp"),
            )
            for index, stage in stages.items()
        ]
        # The loss is already each microbatch's share of the step's loss, so gradients are not scaled.
        self._schedule: Any
        if split:
            self._schedule = SplitBackwardSchedule(plan, chunks, loss, scale_grads=False)
        else:
            schedule = _SCHEDULES[plan.schedule]
            given = chunks if issubclass(schedule, PipelineScheduleMulti) else chunks[0]
            self._schedule = schedule(given, plan.microbatches, loss_fn=loss, scale_grads=False)

    def run(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        """Accumulate gradients of (microbatches * micro_batch, sequence)
        tokens; return the summed loss of this rank. Every stage gets its microbatch's `places`, as in `StageModule.forward`."""
        losses: list[Tensor] = []
        self._loss.expect(labels.chunk(self._microbatches))
        with self._loss.active():
            self._schedule.step(
                *([inputs.contiguous()] if self._first else []),  # a stage checks the strides of its input
                target=labels if self._last else None,
                losses=losses if self._last else None,
                return_outputs=False,
                **({} if places is None else {"places": places}),
            )
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=inputs.device)


class TiedEmbedding:
    """The embedding that the first stage reads for its tokens and the last stage for its logits.

    Both stages hold it, and each accumulates part of its gradient. With the sum of the two, equal copies get equal
    updates.
    """

    def __init__(self, mesh: DeviceMesh, copy: nn.Parameter) -> None:
        """`copy` is this rank's copy. This is made only on the ranks of the first and of the last stage."""
        self._copy = copy
        self._device = torch.device(mesh.device_type)
        pipeline = dist.get_process_group_ranks(mesh.get_group("pp"))  # equal places in two stages hold equal shards
        partners = [pipeline[0], pipeline[-1]]
        self._group = dist.new_group(partners, use_local_synchronization=True, group_desc="tied_embedding")

    @contextlib.contextmanager
    def summed(self) -> Iterator[None]:
        """Wrap a step's backward passes, and then add the gradients of the
        two copies from it, once they are reduced."""
        earlier, self._copy.grad = self._copy.grad, None  # of earlier steps, already summed
        yield
        gradient = self._copy.grad
        assert gradient is not None, "both stages compute with the embedding in every step"
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        total = local.to(self._device)  # an offloaded gradient is on the host, which NCCL cannot reach
        dist.all_reduce(total, group=self._group)
        if total is not local:
            local.copy_(total)
        if earlier is not None:
            gradient.add_(earlier)
