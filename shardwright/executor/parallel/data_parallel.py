"""ZeRO and HSDP through FSDP2: the sharding of a stage."""

import math
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from shardwright.executor.model import StageModule
from shardwright.executor.offload import park
from shardwright.specs import Plan, Precision

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
