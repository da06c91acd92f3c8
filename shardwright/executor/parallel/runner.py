"""How this rank's stages take the microbatches of a step: in turn, or through a pipeline."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from shardwright.executor.model import StageModule
from shardwright.executor.passes import Accumulation, GradientSync, Pipeline
from shardwright.specs import Plan

from .precision import COMPUTE_DTYPES
from .stage_builder import StageBuilder


class Runner(Protocol):
    """Runs forward and backward passes of a step's microbatches, and returns the summed loss of this rank."""

    def run(self, inputs: Tensor, labels: Tensor, places: Tensor | None) -> Tensor: ...


def runner_of(builder: StageBuilder, stages: Mapping[int, StageModule], syncs: Mapping[int, GradientSync]) -> Runner:
    """Return what takes a step's microbatches through the stages (by index), each with its `syncs`."""
    plan, training = builder.plan_file.plan, builder.plan_file.training
    skeleton, mesh, loss = builder.skeleton, builder.mesh, builder.loss
    if plan.mesh.pp == 1:
        return Accumulation(stages[0], syncs[0], loss, microbatches=plan.microbatches)
    dtype = COMPUTE_DTYPES[training.precision.compute]
    own_vocabulary = _own_vocabulary(plan, mesh, skeleton.config.vocab_size)
    own_tokens = training.seq_len // plan.mesh.cp
    logits = _example(plan.micro_batch, own_tokens, own_vocabulary, dtype=dtype)
    if loss.chunks > 1:
        logits = _example(1, 1, 1, dtype=torch.float32)
    return Pipeline(
        plan,
        stages,
        syncs,
        loss,
        mesh=mesh,
        tokens=torch.empty(plan.micro_batch, own_tokens, dtype=torch.int64, device="meta"),
        hidden=hidden_example(builder),
        logits=logits,
    )


def hidden_example(builder: StageBuilder) -> Tensor:
    """Return what stages exchange, (micro_batch, sequence / cp, or / cp / tp, hidden), on the meta device."""
    plan, training = builder.plan_file.plan, builder.plan_file.training
    own_tokens = training.seq_len // plan.mesh.cp
    streamed = own_tokens // plan.mesh.tp if plan.sequence_parallel else own_tokens
    dtype = COMPUTE_DTYPES[training.precision.compute]
    return _example(plan.micro_batch, streamed, builder.skeleton.config.hidden_size, dtype=dtype)


def _example(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)


def _own_vocabulary(plan: Plan, mesh: DeviceMesh, vocab_size: int) -> int:
    """Return the rows of the vocabulary on this tp rank. DTensor cuts like
    `torch.chunk`, so the last rank may hold fewer."""
    chunk = -(-vocab_size // plan.mesh.tp)
    return max(0, min(chunk, vocab_size - chunk * mesh.get_local_rank("tp")))
