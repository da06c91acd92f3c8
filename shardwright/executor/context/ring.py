"""Ring attention: keys and values go round the ranks, and each rank adds up attention over one block after the other.

The queries of a rank, and every block, are two chunks of the sequence in zig-zag (`dealing.py`). Between two ranks half of
the scores are above the diagonal, and these halves are left out whole. Each step is then the same work on every rank.

Two blocks with outputs O1, O2 and logarithms L1, L2 of their sums of exponentials merge to O1 exp(L1 - L) + O2 exp(L2 - L),
L = log(exp L1 + exp L2) (Liu et al. 2023, arXiv 2310.01889). What is computed within a block is in `blocks.py`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.executor.model import MeshRanks

from . import blocks
from .blocks import Queries, Seen

_TOKENS = 2
_MOST_SCORES = 2**26
"""Scores in memory at once where plain matmuls compute them: 256 MiB in fp32."""


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
                rows, (keys, values) = part.queries, (tensor[:, :, part.keys] for tensor in held)
                _add(
                    output[:, :, rows],
                    logs[:, :, rows],
                    *blocks.attend(query[:, :, rows], keys, values, part.seen, scale),
                )
            held = following.wait() if following else held
        ctx.ranks, ctx.scale, ctx.documents = ranks, scale, documents
        result = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, logs)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, output, logs = ctx.saved_tensors
        ranks, of_queries = ctx.ranks, torch.zeros_like(query, dtype=torch.float32)
        held = [key.contiguous(), value.contiguous()]
        sums = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in held]
        for step in range(ranks.size):
            following = _Passing(held, ranks) if step + 1 < ranks.size else None
            for part in _parts(ranks.rank, (ranks.rank - step) % ranks.size, query, ctx.documents):
                rows, columns = part.queries, part.keys
                keys, values = (tensor[:, :, columns] for tensor in held)
                own = Queries(*(tensor[:, :, rows] for tensor in (query, gradients[0], output, logs)))
                found = blocks.block_gradients(own, keys, values, part.seen, ctx.scale)
                of_queries[:, :, rows] += found[0]
                for total, gradient in zip(sums, found[1:], strict=True):
                    total[:, :, columns] += gradient
            held = following.wait() if following else held
            if ranks.size > 1:
                sums = _Passing(sums, ranks).wait()  # home after as many steps as there are ranks
        return of_queries.to(query.dtype), sums[0].to(key.dtype), sums[1].to(value.dtype), None, None, None


class _Part(NamedTuple):
    """Queries and keys of two ranks with scores to compute."""

    queries: slice
    keys: slice
    seen: Seen


def _parts(rank: int, source: int, query: Tensor, documents: Tensor | None = None) -> Iterator[_Part]:
    """Yield what there is to compute between two ranks: for a fused kernel at once, else in tiles whose scores fit in `_MOST_SCORES`."""
    tokens, half = query.shape[_TOKENS], query.shape[_TOKENS] // 2
    queries, keys = range(tokens), slice(0, tokens)
    if source < rank:
        keys = slice(0, half)  # its late chunk follows all queries
    elif source > rank:
        queries = range(half, tokens)  # only the late queries follow its chunks
    rows = max(1, _MOST_SCORES // (query.shape[0] * query.shape[1] * (keys.stop - keys.start)))
    if blocks.has_kernel(query, documents):
        rows = tokens
    for first in range(queries.start, queries.stop, rows):
        last = min(first + rows, queries.stop)
        part = _Part(slice(first, last), slice(0, last), Seen(first))
        if source != rank:
            part = _Part(slice(first, last), keys, Seen(None))
        if documents is not None:
            own, others = documents[:, rank, part.queries], documents[:, source, part.keys]
            apart = (own[:, :, None] != others[:, None, :])[:, None, None]
            part = part._replace(seen=part.seen._replace(apart=apart))
        yield part


def _add(output: Tensor, logs: Tensor, own: Tensor, own_logs: Tensor) -> None:
    """Add attention over a block to `output` and `logs`, in place."""
    merged = torch.logaddexp(logs, own_logs)
    output.mul_((logs - merged).exp()[..., None]).add_(own * (own_logs - merged).exp()[..., None])
    logs.copy_(merged)


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
