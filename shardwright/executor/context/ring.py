"""Ring attention: keys and values go round the ranks, and each rank adds up attention over one block after the other.

The queries of a rank, and every block, are two chunks of the sequence in zig-zag (`dealing.py`). Between two ranks half of
the scores are above the diagonal, and these halves are left out whole. Each step is then the same work on every rank.

With scores S = Q K^T / sqrt(d) over a block, the sum of exponentials is kept as its logarithm, L = log sum exp S. Two blocks with
outputs O1, O2 merge to O1 exp(L1 - L) + O2 exp(L2 - L), L = log(exp L1 + exp L2) (Liu et al. 2023, arXiv 2310.01889, and
FlashAttention, Dao et al. 2022, arXiv 2205.14135, section 3.1). The backward pass needs O and L of the whole alone (its appendix
B.2): with P = exp(S - L) and D = rowsum(dO * O), dV = P^T dO, dS = P * (dO V^T - D), dQ = dS K, dK = dS^T Q.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.executor.model import MeshRanks

_TOKENS = 2
_MOST_SCORES = 2**26
"""Scores in memory at once: 256 MiB in fp32."""


def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ranks: MeshRanks,
    scaling: float | None,
    documents: Tensor | None = None,
) -> Tensor:
    """Return causal attention of this rank's queries (batch, heads, tokens, head size) to the keys and values of all ranks.

    Keys and values are (batch, KV heads, tokens, head size). Each tensor holds the rank's two chunks. `documents`: the number of
    the document of each token, (batch, ranks, tokens), where a query sees its own document alone.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output: Tensor = _Ring.apply(query, key, value, ranks, scale, documents)  # type: ignore[no-untyped-call]  # torch's
    return output


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        ranks: MeshRanks,
        scale: float,
        documents: Tensor | None,
    ) -> Tensor:
        held = [key.contiguous(), value.contiguous()]
        output = query.new_zeros((*query.shape[:-1], value.shape[-1]), dtype=torch.float32)
        logs = query.new_full(query.shape[:-1], -torch.inf, dtype=torch.float32)
        for step in range(ranks.size):
            following = _Passing(held, ranks) if step + 1 < ranks.size else None
            for part in _parts(ranks.rank, (ranks.rank - step) % ranks.size, query, documents):
                rows, block = part.queries, [tensor[:, :, part.keys] for tensor in held]
                _add(output[:, :, rows], logs[:, :, rows], query[:, :, rows], block, part, scale)
            held = following.wait() if following else held
        ctx.ranks, ctx.scale, ctx.documents = ranks, scale, documents
        result = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, logs)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, output, logs = ctx.saved_tensors
        ranks, given = ctx.ranks, gradients[0].float()
        of_queries = torch.zeros_like(query, dtype=torch.float32)
        products = (given * output).sum(-1)
        held = [key.contiguous(), value.contiguous()]
        sums = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in held]
        for step in range(ranks.size):
            following = _Passing(held, ranks) if step + 1 < ranks.size else None
            for part in _parts(ranks.rank, (ranks.rank - step) % ranks.size, query, ctx.documents):
                rows, columns = part.queries, part.keys
                own = _Rows(query[:, :, rows], given[:, :, rows], logs[:, :, rows], products[:, :, rows])
                found = _block_gradients(own, [tensor[:, :, columns] for tensor in held], part, ctx.scale)
                of_queries[:, :, rows] += found[0]
                for total, gradient in zip(sums, found[1:], strict=True):
                    total[:, :, columns] += gradient
            held = following.wait() if following else held
            sums = _Passing(sums, ranks).wait()  # home after as many steps as there are ranks
        return of_queries.to(query.dtype), sums[0].to(key.dtype), sums[1].to(value.dtype), None, None, None


class _Part(NamedTuple):
    """Queries and keys with scores to compute. `diagonal`: how many keys precede the first query's own; None: all are seen.
    `apart`: which of them are of different documents, (batch, 1, 1, queries, keys); None: none."""

    queries: slice
    keys: slice
    diagonal: int | None
    apart: Tensor | None = None


def _parts(rank: int, source: int, query: Tensor, documents: Tensor | None = None) -> Iterator[_Part]:
    """Yield what there is to compute between two ranks, in tiles of queries whose scores fit in `_MOST_SCORES`."""
    tokens, half = query.shape[_TOKENS], query.shape[_TOKENS] // 2
    queries, keys = range(tokens), slice(0, tokens)
    if source < rank:
        keys = slice(0, half)  # its late chunk follows all queries
    elif source > rank:
        queries = range(half, tokens)  # only the late queries follow its chunks
    rows = max(1, _MOST_SCORES // (query.shape[0] * query.shape[1] * (keys.stop - keys.start)))
    for first in range(queries.start, queries.stop, rows):
        last = min(first + rows, queries.stop)
        part = _Part(slice(first, last), slice(0, last), first)
        if source != rank:
            part = _Part(slice(first, last), keys, None)
        if documents is not None:
            own, others = documents[:, rank, part.queries], documents[:, source, part.keys]
            part = part._replace(apart=(own[:, :, None] != others[:, None, :])[:, None, None])
        yield part


class _Rows(NamedTuple):
    query: Tensor
    gradient: Tensor
    logs: Tensor
    products: Tensor


def _grouped(tensor: Tensor, kv_heads: int) -> Tensor:
    """Return (batch, heads, ...) as (batch, KV heads, heads that share one, ...)."""
    return tensor.reshape(tensor.shape[0], kv_heads, -1, *tensor.shape[2:])


def _scores(query: Tensor, key: Tensor, part: _Part, scale: float) -> Tensor:
    """Return the scores in fp32 by KV head and group: (batch, KV heads, group, queries, keys)."""
    scores: Tensor = (_grouped(query, key.shape[1]) @ key.unsqueeze(2).transpose(-1, -2)).float() * scale
    if part.diagonal is not None:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(part.diagonal + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores if part.apart is None else scores.masked_fill(part.apart, -torch.inf)


def _add(output: Tensor, logs: Tensor, query: Tensor, block: list[Tensor], part: _Part, scale: float) -> None:
    """Add attention over a block to `output` and `logs`, in place."""
    key, value = block
    scores = _scores(query, key, part, scale)
    own_logs = scores.logsumexp(-1)
    # a query that sees none of another rank's keys has the logarithm of 0; its own rank's block, which comes first, has a key
    largest = own_logs if part.apart is None else own_logs.clamp_min(torch.finfo(own_logs.dtype).min)
    own = (torch.exp(scores - largest[..., None]).to(value.dtype) @ value.unsqueeze(2)).flatten(1, 2)
    own_logs = own_logs.flatten(1, 2)
    merged = torch.logaddexp(logs, own_logs)
    output.mul_((logs - merged).exp()[..., None]).add_(own * (own_logs - merged).exp()[..., None])
    logs.copy_(merged)


def _block_gradients(own: _Rows, block: list[Tensor], part: _Part, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values from one block, in fp32."""
    key, value = (tensor.float() for tensor in block)
    query, gradient, logs, products = (_grouped(tensor, key.shape[1]) for tensor in (own.query.float(), *own[1:]))
    weights = torch.exp(_scores(own.query, block[0], part, scale) - logs[..., None])
    of_values = (weights.transpose(-1, -2) @ gradient).sum(2)
    of_scores = weights * (gradient @ value.unsqueeze(2).transpose(-1, -2) - products[..., None]) * scale
    of_queries = (of_scores @ key.unsqueeze(2)).flatten(1, 2)
    return of_queries, (of_scores.transpose(-1, -2) @ query).sum(2), of_values


class _Passing:
    """Tensors on their way to the next rank of the ring, while those of the rank before arrive."""

    def __init__(self, tensors: list[Tensor], ranks: MeshRanks) -> None:
        group = ranks.mesh.get_group()
        after = dist.get_global_rank(group, (ranks.rank + 1) % ranks.size)
        before = dist.get_global_rank(group, (ranks.rank - 1) % ranks.size)
        self._sent = tensors  # kept until they have arrived
        self._received = [torch.empty_like(tensor) for tensor in tensors]
        sends = [dist.P2POp(dist.isend, tensor, after, group) for tensor in tensors]
        receives = [dist.P2POp(dist.irecv, tensor, before, group) for tensor in self._received]
        self._works = dist.batch_isend_irecv([*sends, *receives])

    def wait(self) -> list[Tensor]:
        for work in self._works:
            work.wait()
        return self._received
