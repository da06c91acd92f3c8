"""ZeRO and HSDP through FSDP2: the sharding of a stage, and the time of its gradient reductions in a step."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from shardwright.executor.model import StageModule
from shardwright.executor.offload import OffloadEngine, park, streamed_layers
from shardwright.specs import Offload, Plan, Precision

from .precision import COMPUTE_DTYPES, GRADIENT_DTYPES

_PARKED_SHARE = 0.25
"""From this share of the optimizer on the host, shards wait there until the whole model is built: its parameters are then a quarter of
what the host holds of each element. With less, what stays on the device is more than all parameters."""


class DataParallel:
    """The sharding of a run's modules over (dp_replicate, dp_shard), or over dp_shard alone where replicas agree only approximately.

    Every module is wrapped, also on a single data-parallel rank. The same code then casts parameters to the compute
    precision. It also sums over tp the gradients of parameters that every tp rank holds.
    """

    def __init__(
        self, plan: Plan, precision: Precision, mesh: DeviceMesh, expert_mesh: DeviceMesh | None = None
    ) -> None:
        self.mesh = _data_axes(mesh, plan)
        self.expert_mesh = _data_axes(expert_mesh, plan) if expert_mesh else None
        self._parks = plan.offload.optimizer_fraction >= _PARKED_SHARE
        compute = COMPUTE_DTYPES[precision.compute]
        self.precision = MixedPrecisionPolicy(
            param_dtype=None if compute == torch.float32 else compute, reduce_dtype=GRADIENT_DTYPES[precision.gradients]
        )
        # this warning is for code that changes the outputs of a sharded module in place; ours never does
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")

    def shard_experts(self, module: nn.Module, *, zero_stage: int) -> None:
        """Shard experts that ep spreads, over the ranks that hold the same ones. Weights of tokens keep their precision."""
        assert self.expert_mesh is not None
        fully_shard(
            module,
            mesh=self.expert_mesh,
            reshard_after_forward=zero_stage == 3,
            ignored_params=_held_whole(module, zero_stage),
            mp_policy=replace(self.precision, cast_forward_inputs=False),
            shard_placement_fn=partial(_evenly, ranks=self.expert_mesh["dp_shard"].size()),
        )
        self._park(module)

    def shard(
        self, module: nn.Module | list[nn.Module], *, zero_stage: int, streamed: bool = False, keeps: bool = False
    ) -> None:
        """Shard the parameters below `module` that no inner call has sharded; 3 frees them after each forward pass.

        So do `streamed` ones, which come from the host for each pass. `keeps`: they stay until the backward pass. Frozen weights are
        sharded by 3 alone: with less, every rank holds them whole, and nothing moves them.
        """
        fully_shard(
            module,
            mesh=self.mesh,
            reshard_after_forward=(zero_stage == 3 and not keeps) or streamed,
            ignored_params=_held_whole(module, zero_stage),
            # a stage is given tokens, or hidden states as another one computed them, and sums that stay as they are
            mp_policy=replace(self.precision, cast_forward_inputs=not isinstance(module, StageModule)),
            shard_placement_fn=partial(_along_first, ranks=self.mesh["dp_shard"].size()),
        )
        for part in module if isinstance(module, list) else [module]:
            self._park(part)

    def _park(self, module: nn.Module) -> None:
        if self._parks:
            park(module)


def _data_axes(mesh: DeviceMesh, plan: Plan) -> DeviceMesh:
    """Return the axes over which FSDP reduces. What approximate replicas do with one another is no part of it (executor/replicas/)."""
    reduces = mesh["dp_replicate"].size() > 1 and not plan.sync.approximate
    return mesh["dp_replicate", "dp_shard"] if reduces else mesh["dp_shard"]


def _held_whole(module: nn.Module | list[nn.Module], zero_stage: int) -> set[nn.Parameter] | None:
    parts = module if isinstance(module, list) else [module]
    frozen = {parameter for part in parts for parameter in part.parameters() if not parameter.requires_grad}
    return frozen if frozen and zero_stage < 3 else None


def _evenly(parameter: nn.Parameter, *, ranks: int) -> Shard:
    """Return where to shard weights of experts: where it is even and nothing else cuts them."""
    placements = parameter.placements if isinstance(parameter, DTensor) else ()
    cut = {placement.dim for placement in placements if isinstance(placement, Shard)}
    even = [dim for dim in range(parameter.dim()) if dim not in cut and parameter.shape[dim] % ranks == 0]
    return Shard(even[0] if even else 0)


def _along_first(parameter: nn.Parameter, *, ranks: int) -> Shard:
    """Return where to shard a weight: along its first dimension, or where that is uneven along one that is even.

    A router of 8 experts over 16 ranks would otherwise be sent as one of 16. Other dimensions take a copy more. Rows that tp cuts into
    unequal parts stay along the first: ranks of tp must agree.
    """
    parts = 1
    if isinstance(parameter, DTensor):
        sizes = zip(parameter.placements, parameter.device_mesh.shape, strict=True)
        parts = math.prod(size for placement, size in sizes if isinstance(placement, Shard) and placement.dim == 0)
    rows, rest = divmod(parameter.shape[0], parts)
    return _evenly(parameter, ranks=ranks) if parameter.dim() > 1 and not rest and rows % ranks else Shard(0)


class GradientSync:
    """The times in a step at which each part of a stage reduces its gradients and frees its gathered parameters.

    ZeRO-3 gathers the parameters for each use, and reduces the gradients of every microbatch into this rank's shard.
    ZeRO-2 keeps the parameters gathered until the last microbatch. ZeRO-1 also sums whole gradients over the
    microbatches and reduces them once; so does ZeRO-0. Between replicas (dp_replicate) gradients are reduced once a
    step.

    With `by_chunk` all forward passes of the stage follow each other, and so do all backward passes (breadth-first). ZeRO-3 then gathers once for
    each of the two, and ZeRO-2 and 3 reduce once, after the last.

    Offload changes two of these: layers whose weights are streamed are freed after every pass, and gradients that the host sums
    are handed out after every microbatch.
    """

    def __init__(
        self, stage: StageModule, *, zero_stage: int, offload: Offload | None = None, by_chunk: bool = False
    ) -> None:
        offload = offload or Offload()
        by_path = dict(zip(stage.layer_paths, (run.zero_stage for run in stage.strategies), strict=True))
        streams = streamed_layers(len(stage.layer_paths), offload.parameter_fraction)
        streamed = {path for path, comes in zip(stage.layer_paths, streams, strict=True) if comes}
        layers = f"{stage.structure.layers}."
        depth = layers.count(".") + 1
        self._root, self._by_chunk = stage, by_chunk
        self._host_sums = offload.gradient_fraction > 0
        named = [
            (".".join(inner.split(".")[:depth]), module)
            for inner, module in stage.named_modules()
            if isinstance(module, FSDPModule)
        ]
        self._parts = [(module, by_path.get(path, zero_stage), path in streamed) for path, module in named]
        freed = {
            *(path for path, stage in by_path.items() if stage == 3),
            *([stage.structure.embedding] * (zero_stage == 3)),
        }
        self._freed_forward = [module for path, module in named if path in freed - streamed]
        self.engine: OffloadEngine | None = None
        _prefetch_within_microbatch(stage, from_the_first=stage.trains_below)

    def before_forward(self, *, last: bool) -> None:
        """Set every part up for the forward pass of one microbatch; `last`: no other one follows before the backward passes."""
        if self._by_chunk:
            for part in self._freed_forward:
                part.set_reshard_after_forward(last, recurse=False)

    def before_backward(self, *, last: bool) -> None:
        """Set every part up for the backward pass of one microbatch; `last`: it is the last of the step."""
        for part, zero_stage, is_streamed in self._parts:
            reduces, frees = (not self._by_chunk and zero_stage >= least for least in (2, 3))
            part.set_requires_gradient_sync(last or reduces or self._host_sums, recurse=False)
            part.set_requires_all_reduce(last, recurse=False)
            part.set_reshard_after_backward(last or frees or is_streamed, recurse=False)
        if self.engine is not None:
            self.engine.before_backward(self._root, last=last)
        assert isinstance(self._root, FSDPModule)
        self._root.set_is_last_backward(last)


def _prefetch_within_microbatch(stage: StageModule, *, from_the_first: bool = True) -> None:
    """Let each part gather ahead, in a backward pass, the part before it in the forward pass, and the first one nothing.

    By itself FSDP goes on to the last part of the microbatch before, whose backward pass is over: it gathers weights that no one
    needs (torch 2.13, _fsdp_param_group.py, _backward_prefetch: the order of forwards is kept to the last backward pass).

    Parts that come before every trained weight have no backward pass, unless `from_the_first`, and are not gathered for it.
    """
    parts = list(
        {id(part._get_fsdp_state()): part for part in _in_order(stage)}.values()
    )  # modules sharded as one count once
    trained = (index for index, part in enumerate(parts) if _trains(part))
    first = 0 if from_the_first else next(trained, len(parts))
    for index, part in enumerate(parts):
        # itself, which is gathered: an empty list would mean FSDP's own choice
        part.set_modules_to_backward_prefetch([parts[index - 1] if index > first else part])


def _trains(part: FSDPModule) -> bool:
    assert isinstance(part, nn.Module)
    return any(parameter.requires_grad for parameter in part.parameters())


def _in_order(module: nn.Module) -> Iterator[FSDPModule]:
    """Yield the sharded modules in the order in which their forward passes end."""
    for child in module.children():
        yield from _in_order(child)
    if isinstance(module, FSDPModule):
        yield module
