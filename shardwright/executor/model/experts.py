"""Expert parallelism: the experts of a layer spread over ep ranks, to which their tokens travel and from which they come back.

Nothing is dropped: ranks first tell each other how many tokens go to each expert, and then exchange that many (uneven
all-to-all). Router and shared experts stay with the dense layers. The experts of a rank run transformers' own code, with
grouped matmuls where transformers has them, on the tokens in hand.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile

from .fused import stacks_experts
from .hugging_face import Skeleton
from .moves import MeshRanks
from .rules import layer_division
from .tensor_parallel import ADAPTER_A, ADAPTER_B, compute_with, in_shape

_ARGUMENTS = 3
"""Of experts: hidden states (tokens, hidden), the experts of each token, and their weights, (tokens, top-k) each."""


def check_experts(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that ep divides the experts of every layer that has any, and that their module can be given tokens in hand.

    Raises:
        SpecError: one line that names the module, or what to plan instead.
    """
    mesh, name = plan_file.plan.mesh, plan_file.model_name
    if mesh.ep == 1:
        return
    layers = skeleton.layers
    found = [(layer, path) for layer in layers for path in experts_paths(layer)]
    if not found:
        raise SpecError(f"{name} has no experts that ep {mesh.ep} could spread; plan with ep 1")
    for layer, path in found:
        _check_module(plan_file, layer.get_submodule(path), path)
        if mesh.tp == 1:
            continue
        division = layer_division(skeleton.model, layer, skeleton.structure.layers, name)
        if division.regions[path.partition(".")[0]].roles.get(path) != "experts":
            raise SpecError(
                f"{name}: '{path}' of a layer is not divided over tp, so ep does not run with it; plan with tp 1"
            )


def _check_module(plan_file: PlanFile, module: nn.Module, path: str) -> None:
    mesh, name = plan_file.plan.mesh, plan_file.model_name
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    count, ranks = shapes[0][0], mesh.expert_shard_ranks if plan_file.plan.zero_stage else 1
    if count % mesh.ep:
        raise SpecError(
            f"{name} has {count} experts in '{path}' of a layer, which ep {mesh.ep} does not divide; give a divisor"
        )
    if len(inspect.signature(module.forward).parameters) != _ARGUMENTS or not hasattr(module, "num_experts"):
        raise SpecError(f"{name}: {type(module).__name__} is not given tokens with their experts; plan with ep 1")
    if mesh.expert_tp > 1 and not stacks_experts(module) and "up_proj" not in module._parameters:
        raise SpecError(
            f"{name}: {mesh.expert_tp} ranks cannot share the columns of {type(module).__name__}; plan with an ep that is a multiple of "
            f"tp {mesh.tp}, or with --etp 1"
        )
    if any(all(size % ranks for size in (count // mesh.ep, *shape[1:])) for shape in shapes):
        raise SpecError(
            f"{name}: {ranks} ranks that hold the same experts cannot shard them evenly; plan with another ep"
        )


def experts_paths(layer: nn.Module) -> list[str]:
    """Return the paths of the modules that hold the weights of all experts, stacked along the first dimension."""
    return [
        path
        for path, module in layer.named_modules()
        if ("gate_up_proj" in module._parameters or "up_proj" in module._parameters)
        and "down_proj" in module._parameters
        and all(parameter is not None and parameter.dim() >= 2 for parameter in module._parameters.values())
    ]


def _placements(name: str, parameter: Tensor, mesh: DeviceMesh) -> list[Placement]:
    """Return where experts are cut over ep, and over ranks that share the columns of an expert: (experts, 2, width, hidden), or
    (experts, width, hidden) without gates, and (experts, hidden, width); and in their adapters what is as wide."""
    shared: Placement = Shard(1) if name == "up_proj" else Shard(2)
    if name.startswith((ADAPTER_A, ADAPTER_B)):
        beside = parameter.dim() == 4 or (name.startswith(ADAPTER_A) and name.endswith("down_proj"))
        shared = Shard(2) if beside else Replicate()
    return [Shard(0), shared][: mesh.ndim]


class SpreadRanks(NamedTuple):
    """Where the experts of a stage are.

    `experts`: the ranks over which they are spread. `mesh`: these, or these and the ranks that share the columns of an expert.
    `tokens`: this rank and the number of ranks that hold the same tokens, of
    which each sends its share. `gradient_factor`: ranks that hold the same experts / ranks with tokens of their own. Gradients
    are averaged over the first, and a loss is scaled for an average over the second.
    """

    experts: MeshRanks
    mesh: DeviceMesh
    tokens: tuple[int, int]
    gradient_factor: float


def spread_experts(module: nn.Module, ranks: SpreadRanks) -> None:
    """Give each rank its part of the experts, and exchange tokens around the module's forward pass.

    Ranks that share the columns of an expert get the same tokens, and return partial sums. Where several ranks hold the same tokens, the output is that of this rank's share of them, and zero elsewhere.
    """
    for name, parameter in list(module.named_parameters(recurse=False)):
        placements = _placements(name, parameter, ranks.mesh)
        part = distribute_tensor(parameter.detach(), ranks.mesh, placements, src_data_rank=None)
        module.register_parameter(name, nn.Parameter(part, requires_grad=parameter.requires_grad))
    own: Any = module
    own.num_experts //= ranks.experts.size
    compute: Callable[..., Tensor] = module.forward

    def forward(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        return _exchanged(hidden, chosen, weights, ranks, compute, module)

    module.forward = forward

    def local(name: str, parameter: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        # what ranks that share an expert hold whole gets a part of its gradient from the columns of each
        sums: list[Placement] = [Partial() if own.is_replicate() else own for own in parameter.placements]
        part = parameter.to_local(grad_placements=sums)
        scaled: Tensor = _ScaledGradient.apply(part, ranks.gradient_factor)  # type: ignore[no-untyped-call]  # torch's
        return in_shape(name, scaled)

    compute_with(module, local)


def _exchanged(
    hidden: Tensor,
    chosen: Tensor,
    weights: Tensor,
    ranks: SpreadRanks,
    compute: Callable[..., Tensor],
    module: nn.Module,
) -> Tensor:
    place, sharing = ranks.tokens
    first, last = (len(hidden) * bound // sharing for bound in (place, place + 1))
    copies = chosen[first:last].flatten()
    order = copies.argsort(stable=True)
    tokens = first + order // chosen.shape[1]
    experts = ranks.experts
    sent = torch.bincount(copies, minlength=experts.size * _count(module)).view(experts.size, -1)
    received = experts.trade(sent)
    out, back = sent.sum(1).tolist(), received.sum(1).tolist()
    arrived: Tensor = _Uneven.apply(hidden[tokens], out, back, experts)  # type: ignore[no-untyped-call]  # torch's
    done = _compute(arrived, received, compute, module)
    returned: Tensor = _Uneven.apply(done, back, out, experts)  # type: ignore[no-untyped-call]  # torch's
    weighted = returned * weights[first:last].flatten()[order, None]
    summed: Tensor = _Summed.apply(weighted.to(hidden.dtype), tokens, len(hidden))  # type: ignore[no-untyped-call]  # torch's
    return summed


def _count(module: Any) -> int:
    count: int = module.num_experts
    return count


def _compute(arrived: Tensor, received: Tensor, compute: Callable[..., Tensor], module: nn.Module) -> Tensor:
    """Run this rank's experts. `received`: tokens by the rank they come from and by expert, in the order of `arrived`."""
    if not len(arrived):  # every rank still takes part in the backward pass, with gradients of zero
        nothing = torch.stack([parameter.sum() for parameter in module._parameters.values() if parameter is not None])
        return arrived + 0 * nothing.sum().to(arrived.dtype)
    local = torch.arange(received.shape[1], device=arrived.device).repeat(received.shape[0])
    experts = local.repeat_interleave(received.flatten())[:, None]
    return compute(arrived, experts, torch.ones_like(experts, dtype=arrived.dtype))


class _Uneven(torch.autograd.Function):
    """All-to-all of rows: `out` of them to each rank, `back` from each."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, out: list[int], back: list[int], ranks: MeshRanks) -> Tensor:
        ctx.splits, ctx.ranks = (out, back), ranks
        return ranks.exchange(rows, out, back)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        out, back = ctx.splits
        return ctx.ranks.exchange(gradients[0], back, out), None, None, None


class _Summed(torch.autograd.Function):
    """Sums rows by the token that each belongs to. torch's own `index_add` keeps the rows for its backward pass, for their shape alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, tokens: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(tokens)
        return rows.new_zeros(count, rows.shape[1]).index_add_(0, tokens, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        return gradients[0][tokens], None, None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
