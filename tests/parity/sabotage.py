"""Deliberate faults in the engine, one for each dimension: parity has to notice every one of them.

Each function breaks the process it runs in, so it is given to a rank of a world and never called here.
"""

import contextlib
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.utils.checkpoint import checkpoint

from shardwright.executor.context import attention as context_attention
from shardwright.executor.context import blocks, ring
from shardwright.executor.context.dealing import Dealing
from shardwright.executor.context.pieces import SequencePieces
from shardwright.executor.experts import exchange as experts
from shardwright.executor.model import (
    attention,
    fused,
    hugging_face,
    initial_weights,
    moves,
    stage_module,
    tensor_parallel,
)
from shardwright.executor.model.division import Region
from shardwright.executor.model.stage_module import StageModule
from shardwright.executor.parallel import clipping, engine, stage_builder
from shardwright.executor.passes import chunked_loss, pipeline
from shardwright.executor.passes.gradient_sync import GradientSync
from shardwright.executor.passes.loss import TokenLoss
from shardwright.executor.passes.pipeline import TiedEmbedding


def lose_last_microbatch() -> None:
    """Gradients are reduced before the last microbatch, whose own are never added."""
    original, calls = GradientSync.before_backward, {"count": 0}

    def early(self: GradientSync, *, last: bool) -> None:
        calls["count"] += 1
        original(self, last=calls["count"] % 2 == 1)  # the cases run two microbatches a step

    GradientSync.before_backward = early  # type: ignore[method-assign]


def pass_no_states_on() -> None:
    """Recurrent layers begin each piece of a sequence with an empty state."""
    original = SequencePieces.begins

    def empty(self: SequencePieces, *given: Any) -> Tensor:
        return 0 * original(self, *given)

    SequencePieces.begins = empty  # type: ignore[assignment,method-assign]


def return_identities_on_every_rank() -> None:
    """Each rank of tp adds the tokens that an expert returns as they are."""
    tensor_parallel._return_on_first_rank = lambda module, ranks: None


def overwrite_gradients() -> None:
    """Each microbatch's gradients replace those before them."""
    start, original = GradientSync.__init__, GradientSync.before_backward

    def remember(self: Any, stage: StageModule, **given: Any) -> None:
        start(self, stage, **given)
        self.shards = list(stage.parameters())

    def forgetful(self: Any, *, last: bool) -> None:
        # reduced gradients lie with the shards, others with the gathered parameters that have taken their place
        for parameter in (*self.shards, *self._root.parameters()):
            parameter.grad = None
        original(self, last=last)

    GradientSync.__init__ = remember  # type: ignore[method-assign]
    GradientSync.before_backward = forgetful  # type: ignore[method-assign]


def skip_all_reduce() -> None:
    """Replicas keep their own gradients."""

    def never(self: FSDPModule, requires_all_reduce: bool, *, recurse: bool = True) -> None:
        for module in self.modules():  # type: ignore[attr-defined]  # every FSDP module is an nn.Module
            if isinstance(module, FSDPModule):
                original(module, False, recurse=recurse)

    original = FSDPModule.set_requires_all_reduce
    FSDPModule.set_requires_all_reduce = never  # type: ignore[method-assign]


def forget_data_parallel_average() -> None:
    """The loss is scaled as though gradients were summed over the data-parallel ranks."""
    original = TokenLoss.__call__

    def unscaled(self: TokenLoss, output: Tensor, labels: Tensor) -> Tensor:
        return original(self, output, labels) / 2

    TokenLoss.__call__ = unscaled  # type: ignore[method-assign]


def average_each_microbatch() -> None:
    """Each microbatch is averaged over its own tokens, though one has fewer labels than the other."""
    original = TokenLoss.__call__

    def own_mean(self: TokenLoss, output: Tensor, labels: Tensor) -> Tensor:
        return original(self, output, labels) * labels.numel() / (labels != -100).sum()

    TokenLoss.__call__ = own_mean  # type: ignore[method-assign]


def forget_head_norm_reduction() -> None:
    """Norms of queries and keys train on this rank's heads only."""
    original = tensor_parallel._divide_parameters

    def without(module: Any, path: str, region: Region, ranks: Any) -> bool:
        roles = {key: "replicated" if role == "by_head" else role for key, role in region.roles.items()}
        return original(module, path, replace(region, roles=roles), ranks)

    tensor_parallel._divide_parameters = without


def forget_norm_reduction() -> None:
    """Under sequence parallelism, norms train on this rank's part of the sequence only."""
    original = tensor_parallel.replicate

    def whole(module: Any, ranks: Any, *, partial: bool) -> None:
        original(module, ranks, partial=False)

    tensor_parallel.replicate = whole


def keep_own_input_gradient() -> None:
    """Attention and feed-forward hand back the gradient of this rank's heads and columns as though it were the whole."""
    tensor_parallel.SUM_GRADIENTS = moves.Move(moves._same, moves._same)  # type: ignore[attr-defined]


def swap_queries_and_values() -> None:
    """The parts of GPT-2's fused projection are taken in the wrong order."""
    original = fused.StackedQueryKeyValue.forward

    def swapped(self: fused.StackedQueryKeyValue, hidden: Tensor) -> Tensor:
        query, key, value = original(self, hidden).chunk(3, dim=-1)
        return torch.cat([value, key, query], dim=-1)

    fused.StackedQueryKeyValue.forward = swapped  # type: ignore[method-assign]


def scale_by_microbatches() -> None:
    """The pipeline divides gradients by the microbatches once more."""
    original = pipeline._SyncedStage.perform_reduce_grad

    def divided(self: Any, grad_scale_factor: int) -> None:
        original(self, 2)

    pipeline._SyncedStage.perform_reduce_grad = divided  # type: ignore[method-assign]


def lose_postponed_weight_gradients() -> None:
    """The last microbatch's weight gradients are never computed."""
    original = PipelineStage.backward_weight_one_chunk

    def forgetful(self: Any, bwd_chunk_id: int, last_backward: bool = False) -> None:
        if not last_backward:
            original(self, bwd_chunk_id, last_backward=last_backward)

    PipelineStage.backward_weight_one_chunk = forgetful  # type: ignore[method-assign]


def lose_gradient_between_stages() -> None:
    """A stage sends the stage before it a gradient of zeros."""
    original = pipeline._SyncedStage.backward_maybe_with_nosync

    def silent(self: Any, *args: Any, **options: Any) -> Any:
        gradients, groups = original(self, *args, **options)
        return tuple(None if gradient is None else torch.zeros_like(gradient) for gradient in gradients), groups

    pipeline._SyncedStage.backward_maybe_with_nosync = silent  # type: ignore[method-assign]


def drop_tied_sum() -> None:
    """Each stage updates its copy of the shared embedding by its own part of the gradient."""
    TiedEmbedding.summed = lambda self: contextlib.nullcontext()  # type: ignore[method-assign, assignment, return-value]


def detach_checkpoint() -> None:
    """A recomputed layer hands no gradient to the layer before it."""
    original = checkpoint

    def detached(layer: Any, hidden: Tensor, *rest: Any, **options: Any) -> Any:
        return original(layer, hidden.detach(), *rest, **options)

    stage_module.checkpoint = detached  # type: ignore[assignment, attr-defined]


def detach_attention_core() -> None:
    """A recomputed attention core gives no gradient to its queries."""
    original = checkpoint

    def detached(function: Any, module: Any, query: Tensor, *rest: Any, **options: Any) -> Any:
        return original(function, module, query.detach(), *rest, **options)

    attention.checkpoint = detached  # type: ignore[assignment, attr-defined]


def detach_whole_attention() -> None:
    """Attention that runs again, but for its linears, gives no gradient to its input."""
    original = checkpoint

    def detached(function: Any, *given: Any, **options: Any) -> Any:
        hidden = options.pop("hidden_states", None)
        if hidden is not None:
            return original(function, *given, hidden_states=hidden.detach(), **options)
        return original(function, given[0].detach(), *given[1:], **options)

    attention.checkpoint = detached  # type: ignore[attr-defined]


def count_replicated_gradients_twice() -> None:
    """The gradient norm adds up copies too."""
    original = clipping.gradient_norm

    def every_copy(gradients: Any, *, ranks_per_stage: int, device: torch.device) -> float:
        return original(gradients, ranks_per_stage=ranks_per_stage // 2, device=device)

    engine.gradient_norm = every_copy  # type: ignore[attr-defined]


def count_tied_copies_twice() -> None:
    """The gradient norm adds up both stages' copies of the shared embedding."""
    original = engine.Engine.__init__

    def all_counted(self: Any, *args: Any) -> None:
        original(self, *args)
        self._counted = [parameter for part in self.model_parts for parameter in part.parameters()]

    engine.Engine.__init__ = all_counted  # type: ignore[method-assign, assignment]


def norm_of_this_rank() -> None:
    """The gradient norm is this rank's own."""
    original = dist.all_reduce

    def unless_a_norm(tensor: Tensor, *args: Any, **options: Any) -> Any:
        return None if tensor.dtype == torch.float64 else original(tensor, *args, **options)

    dist.all_reduce = unless_a_norm


def take_neighbouring_tokens() -> None:
    """Each rank of cp takes the tokens that it would have without the zig-zag."""

    def in_order(self: Dealing, rank: int) -> list[int]:
        return list(range(rank * self.tokens_per_rank, (rank + 1) * self.tokens_per_rank))

    Dealing.of_rank = in_order  # type: ignore[method-assign]


def count_positions_from_zero() -> None:
    """Each rank of cp gives its tokens the positions of the first ones."""
    original = stage_module.StageModule.__init__

    def from_zero(self: Any, *args: Any, **options: Any) -> None:
        own = options["positions"]
        original(self, *args, **{**options, "positions": torch.arange(len(own))})

    stage_module.StageModule.__init__ = from_zero  # type: ignore[method-assign]


def rotate_by_tokens_in_hand() -> None:
    """Each of two ranks of cp chooses rotary frequencies by the number of its own tokens."""
    original = initial_weights.settle_rotation

    def of_part(model: Any, seq_len: int) -> None:
        original(model, seq_len // 2)

    hugging_face.settle_rotation = of_part  # type: ignore[attr-defined]


def keep_own_key_gradients() -> None:
    """Keys and values train on the queries of their own rank only."""

    def own_part(tensor: Tensor, ranks: Any) -> Tensor:
        own: Tensor = tensor.chunk(ranks.size, 2)[ranks.rank].contiguous()
        return own

    context_attention._GATHER_TOKENS = moves.Move(context_attention._gather, own_part)


def lose_gradients_in_the_ring() -> None:
    """Blocks of other ranks get no gradient of their keys."""
    original = blocks.block_gradients

    def without(own: Any, key: Tensor, value: Tensor, seen: Any, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        of_queries, of_keys, of_values = original(own, key, value, seen, scale)
        return of_queries, of_keys if seen.diagonal is not None else torch.zeros_like(of_keys), of_values

    blocks.block_gradients = without


def add_blocks_unscaled() -> None:
    """The ring adds up the outputs of its blocks as though each held all of the softmax."""
    original = ring._add

    def plain(output: Tensor, logs: Tensor, *rest: Any) -> None:
        original(output, torch.full_like(logs, -torch.inf), *rest)

    ring._add = plain  # type: ignore[assignment]


def drop_traded_gradients() -> None:
    """Gradients of the heads that other ranks computed do not come back."""

    def own_alone(tensor: Tensor, ranks: Any) -> Tensor:
        returned = context_attention._tokens_away(tensor, ranks)
        kept = torch.zeros_like(returned)
        width = returned.shape[1] // ranks.size
        own = slice(ranks.rank * width, (ranks.rank + 1) * width)
        kept[:, own] = returned[:, own]
        return kept

    context_attention._TRADE_HEADS = moves.Move(context_attention._heads_away, own_alone)


def take_labels_of_another_microbatch() -> None:
    """The head computes the loss of each microbatch with the labels of another."""
    TokenLoss.next_labels = lambda self: self._upcoming.pop()  # type: ignore[method-assign]


def lose_chunks_of_the_head() -> None:
    """The head trains on one chunk of the tokens."""
    original = chunked_loss._HeadAndLoss.backward

    def lessened(ctx: Any, *gradients: Any) -> Any:
        of_hidden, of_weight, *others = original(ctx, *gradients)
        return of_hidden, of_weight / 2, *others

    chunked_loss._HeadAndLoss.backward = staticmethod(lessened)  # type: ignore[method-assign]


def leave_logits_as_they_are() -> None:
    """A loss in chunks neither scales nor caps logits."""
    chunked_loss.AfterHead.__call__ = lambda self, logits: logits  # type: ignore[method-assign]


def average_experts_as_dense_layers() -> None:
    """Gradients of experts are averaged over the ranks that hold the same ones, fewer than the loss is scaled for."""
    original = experts.spread_experts

    def unscaled(module: Any, ranks: experts.SpreadRanks) -> None:
        original(module, ranks._replace(gradient_factor=1.0))

    stage_builder.spread_experts = unscaled  # type: ignore[attr-defined]


def lose_gradients_of_sent_tokens() -> None:
    """The gradients of tokens stay with the experts that they were sent to."""
    original = experts._Uneven.backward

    def silent(ctx: Any, *gradients: Any) -> Any:
        returned, *others = original(ctx, *gradients)
        return torch.zeros_like(returned), *others

    experts._Uneven.backward = staticmethod(silent)  # type: ignore[method-assign]


def send_tokens_of_every_tp_rank() -> None:
    """All ranks of tp send the tokens that all of them hold."""
    original = experts.spread_experts

    def repeated(module: Any, ranks: experts.SpreadRanks) -> None:
        original(module, ranks._replace(tokens=(0, 1)))

    stage_builder.spread_experts = repeated  # type: ignore[attr-defined]


def confuse_experts() -> None:
    """Tokens are computed by the neighbour of the expert that they were sent to."""
    original = experts._compute

    def shifted(arrived: Tensor, received: Tensor, *rest: Any) -> Tensor:
        return original(arrived, received.roll(1, dims=1), *rest)

    experts._compute = shifted  # type: ignore[assignment]


def share_tokens_beside_columns() -> None:
    """Two ranks that share the columns of an expert send different tokens to it."""
    original = experts.spread_experts

    def halved(module: Any, ranks: experts.SpreadRanks) -> None:
        original(module, ranks._replace(tokens=(dist.get_rank() % 2, 2)))

    stage_builder.spread_experts = halved  # type: ignore[attr-defined]
