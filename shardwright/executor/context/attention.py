"""Attention of a rank's queries to the whole sequence: registered with transformers, for every layer of a model.

Ranks that trade heads get all tokens of their heads first (Jacobs et al. 2023, arXiv 2309.14509). Of those that do not, each
gathers all keys and values (Llama 3, arXiv 2407.21783, section 3.3.2), or passes them round a ring (`ring.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention.bias import CausalBias, CausalVariant
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from shardwright.executor.model import MeshRanks, Move, documents_in_hand, numbered_documents, set_attention
from shardwright.specs import Plan

from .dealing import Dealing
from .ring import ring_attention

_HEADS, _TOKENS = 1, 2
"""Dimensions of queries, keys and values, (batch, heads, tokens, head size)."""


def see_whole_sequence(model: PreTrainedModel, plan: Plan, *, seq_len: int, device_type: str) -> Tensor:
    """Let attention of `model` work over the plan's cp ranks, and return the positions of this rank's tokens, (seq_len / cp,).

    The model is then given those tokens and their positions. Every rank of the default process group calls this, and they are
    numbered as in `specs.Mesh`.
    """
    dealing = Dealing.of_plan(plan, seq_len)
    blocks = plan.mesh.ranks // (plan.mesh.cp * plan.mesh.tp)
    mesh = init_device_mesh(
        device_type,
        (blocks, dealing.rings, dealing.trading, plan.mesh.tp),
        mesh_dim_names=("block", "ring", "trading", "tp"),
    )
    ring, trading = MeshRanks(mesh["ring"]), MeshRanks(mesh["trading"])
    dealt = [position for group in range(dealing.rings) for position in dealing.of_group(group)]
    seen = _WholeSequence(
        dealing,
        ring,
        trading,
        passes_on=plan.context_parallel in ("ring", "ulysses-ring"),
        natural=torch.tensor(dealt, device=device_type).argsort(),
    )
    name = f"shardwright_context_{ring.name}_{trading.name}"  # of this process: engines may have other meshes
    AttentionInterface.register(name, seen.attention)
    AttentionMaskInterface.register(name, seen.mask)
    set_attention(model, name)
    return torch.tensor(dealing.of_rank(ring.rank * dealing.trading + trading.rank), device=device_type)


class _WholeSequence(NamedTuple):
    """`natural`: where each token of the sequence is among those of all groups, one group after the other, (seq_len,)."""

    dealing: Dealing
    ring: MeshRanks
    trading: MeshRanks
    passes_on: bool
    natural: Tensor

    def attention(
        self,
        _module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **_options: Any,
    ) -> tuple[Tensor, None]:
        """Return the output of this rank's tokens, (batch, tokens, heads, head size), as transformers' attention functions do."""
        if self.trading.size > 1:
            key, value = (self._dealt_out(tensor) for tensor in (key, value))
            query, key, value = (_TRADE_HEADS(tensor, self.trading) for tensor in (query, key, value))
        if self.ring.size == 1:
            output = _attend(query, key, value, attention_mask, scaling)
        elif self.passes_on:  # the mask of a ring is None, or says of which document each rank's tokens are
            output = ring_attention(query, key, value, self.ring, scaling, attention_mask)
        else:
            output = self._over_all(query, key, value, attention_mask, scaling)
        if self.trading.size > 1:
            output = _TRADE_TOKENS(output, self.trading)
        return output.transpose(_HEADS, _TOKENS).contiguous(), None

    def mask(
        self,
        *,
        mask_function: Callable[..., Any],
        local_size: int | None = None,
        device: torch.device | str = "cpu",
        **_options: Any,
    ) -> Tensor | None:
        """Return which tokens of the sequence the queries in hand see, (1 or batch, 1, queries, seq_len); None: all before them.

        Of a ring, whose masks are causal: the numbers of documents, (batch, ranks of the ring, tokens of each).
        """
        places = documents_in_hand()
        if places is None and (mask_function is causal_mask_function or (local_size or 0) >= self.dealing.seq_len):
            return None
        own = torch.tensor(self.dealing.of_group(self.ring.rank), device=device)
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        if places is None:
            columns = torch.arange(self.dealing.seq_len, device=device)
            mask: Tensor = mask_function(zero, zero, own[None, None, :, None], columns[None, None, None, :])
            return mask
        numbers = numbered_documents(places)
        if self.passes_on:
            order = torch.tensor([self.dealing.of_group(rank) for rank in range(self.ring.size)], device=device)
            return numbers[:, order]
        inside: Tensor = mask_function(zero, zero, places[:, None, own, None], places[:, None, None, :])
        return inside & (numbers[:, None, own, None] == numbers[:, None, None, :])

    def _dealt_out(self, tensor: Tensor) -> Tensor:
        """Repeat KV heads where there are fewer than ranks to deal them to."""
        return tensor.repeat_interleave(max(1, self.trading.size // tensor.shape[_HEADS]), dim=_HEADS)

    def _over_all(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        key, value = (_GATHER_TOKENS(tensor, self.ring).index_select(_TOKENS, self.natural) for tensor in (key, value))
        if mask is not None:
            return _attend(query, key, value, mask, scaling)
        outputs = []
        chunk = query.shape[_TOKENS] // 2
        for index, own in zip(
            (self.ring.rank, 2 * self.ring.size - 1 - self.ring.rank), query.chunk(2, _TOKENS), strict=True
        ):
            seen = (index + 1) * chunk
            before = causal_lower_right(chunk, seen)
            outputs.append(_attend(own, key[:, :, :seen], value[:, :, :seen], before, scaling))
        return torch.cat(outputs, _TOKENS)


def causal_lower_right(queries: int, keys: int) -> CausalBias:
    """Return torch's `causal_lower_right`, which itself allocates 8 bytes for each query and key and never reads them: 512 GiB for a
    chunk of 64k queries at the end of 1M tokens (torch 2.13, nn/attention/bias.py: its arguments reach `Tensor.__new__`)."""
    bias: Any = Tensor._make_subclass(CausalBias, torch.empty(0))
    bias.variant, bias.seq_len_q, bias.seq_len_kv = CausalVariant.LOWER_RIGHT, queries, keys
    found: CausalBias = bias
    return found


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None) -> Tensor:
    """Attention of (batch, heads, tokens, head size); without a mask, of as many queries as keys, to those before them."""
    repeats = query.shape[_HEADS] // key.shape[_HEADS]
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, dim=_HEADS) for tensor in (key, value))
    output: Tensor = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )
    return output


def _heads_away(tensor: Tensor, ranks: Any) -> Tensor:
    """Give away tokens of other ranks' heads, get all tokens of own ones: (b, n h, t, d) to (b, h, n t, d)."""
    by_rank = tensor.reshape(tensor.shape[0], ranks.size, -1, *tensor.shape[2:]).movedim(_HEADS, 0)
    traded: Tensor = ranks.trade(by_rank)
    return traded.movedim(0, _TOKENS).flatten(_TOKENS, _TOKENS + 1)


def _tokens_away(tensor: Tensor, ranks: Any) -> Tensor:
    """Invert `_heads_away`: (b, h, n t, d) to (b, n h, t, d)."""
    by_rank = tensor.reshape(*tensor.shape[:2], ranks.size, -1, tensor.shape[3]).movedim(_TOKENS, 0)
    traded: Tensor = ranks.trade(by_rank)
    return traded.movedim(0, _HEADS).flatten(_HEADS, _HEADS + 1)


def _gather(tensor: Tensor, ranks: Any) -> Tensor:
    gathered: Tensor = ranks.gather(tensor, _TOKENS)
    return gathered


def _scatter(tensor: Tensor, ranks: Any) -> Tensor:
    scattered: Tensor = ranks.scatter(tensor, _TOKENS)
    return scattered


_TRADE_HEADS = Move(_heads_away, _tokens_away)
_TRADE_TOKENS = Move(_tokens_away, _heads_away)
_GATHER_TOKENS = Move(_gather, _scatter)
