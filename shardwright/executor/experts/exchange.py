"""The exchange of tokens around the experts of a layer, and what each rank holds of these."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from shardwright.executor.model import ADAPTER_A, ADAPTER_B, MeshRanks, compute_with, in_shape

from .centroids import BUCKETS, Centroids, buckets


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
    are averaged over the first, and a loss is scaled for an average over the second. `per_centroid`: tokens that travel as their mean.
    """

    experts: MeshRanks
    mesh: DeviceMesh
    tokens: tuple[int, int]
    gradient_factor: float
    per_centroid: int = 1

    @property
    def sharing_columns(self) -> int:
        """Ranks that share the columns of an expert, whose results add up."""
        return self.mesh.size(1) if self.mesh.ndim == 2 else 1


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
    sorts_by = copies
    if ranks.per_centroid > 1:
        sorts_by = copies * BUCKETS + buckets(hidden[first:last])[:, None].expand(-1, chosen.shape[1]).flatten()
    order = sorts_by.argsort(stable=True)
    tokens = first + order // chosen.shape[1]
    sent = torch.bincount(copies, minlength=ranks.experts.size * _count(module)).view(ranks.experts.size, -1)

    def there_and_back(rows: Tensor, sent: Tensor) -> Tensor:
        experts = ranks.experts
        received = experts.trade(sent)
        out, back = sent.sum(1).tolist(), received.sum(1).tolist()
        arrived: Tensor = _Uneven.apply(rows, out, back, experts)  # type: ignore[no-untyped-call]  # torch's
        done = _compute(arrived, received, compute, module)
        returned: Tensor = _Uneven.apply(done, back, out, experts)  # type: ignore[no-untyped-call]  # torch's
        return returned

    rows = hidden[tokens]
    if ranks.per_centroid > 1:
        returned = _averaged(rows, Centroids(sent, ranks.per_centroid), there_and_back, 1 / ranks.sharing_columns)
    else:
        returned = there_and_back(rows, sent)
    weighted = returned * weights[first:last].flatten()[order, None]
    summed: Tensor = _Summed.apply(weighted.to(hidden.dtype), tokens, len(hidden))  # type: ignore[no-untyped-call]  # torch's
    return summed


def _averaged(
    rows: Tensor, groups: Centroids, there_and_back: Callable[[Tensor, Tensor], Tensor], share: float
) -> Tensor:
    """Return the experts' result of the mean of each group, and what each row differs from that by. `share`: this rank's part of a sum over
    ranks that all have these rows."""
    sums: Tensor = _Summed.apply(rows, groups.of_token, len(groups.sizes))  # type: ignore[no-untyped-call]  # torch's
    means = sums / groups.sizes[:, None].to(rows.dtype)
    moved = there_and_back(means, groups.sent) - share * means
    return moved.index_select(0, groups.of_token) + share * rows


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
