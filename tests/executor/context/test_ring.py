"""The ring's attention on one process: tiles of any size give what torch's attention gives."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shardwright.executor.context import Dealing, ring

BATCH, HEADS, KV_HEADS, SEQ, SIZE = 2, 4, 2, 24, 8


def _attention(ranks: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Return the output of all ranks and the gradients of their sum, weighted by position, in the order of the sequence."""
    dealing = Dealing(SEQ, ranks, 1)
    output, gradients = torch.zeros_like(query), [torch.zeros_like(tensor) for tensor in (query, key, value)]
    own = [dealing.of_group(rank) for rank in range(ranks)]
    given = torch.arange(SEQ).float()[None, None, :, None].expand_as(query)
    for rank in range(ranks):
        rows = own[rank]
        logs = torch.full((BATCH, HEADS, len(rows)), -torch.inf)
        mine, sums = query[:, :, rows], torch.zeros(BATCH, HEADS, len(rows), SIZE)
        blocks = {source: [key[:, :, own[source]], value[:, :, own[source]]] for source in range(ranks)}
        for source, block in blocks.items():
            for part in ring._parts(rank, source, mine):
                tile = [tensor[:, :, part.keys] for tensor in block]
                q = part.queries
                ring._add(sums[:, :, q], logs[:, :, q], mine[:, :, q], tile, part, SIZE**-0.5)
        output[:, :, rows] = sums
        upstream = given[:, :, rows]
        products = (upstream * sums).sum(-1)
        for source, block in blocks.items():
            for part in ring._parts(rank, source, mine):
                q = part.queries
                found = ring._block_gradients(
                    ring._Rows(mine[:, :, q], upstream[:, :, q], logs[:, :, q], products[:, :, q]),
                    [tensor[:, :, part.keys] for tensor in block],
                    part,
                    SIZE**-0.5,
                )
                gradients[0][:, :, rows[q]] += found[0]
                for total, gradient in zip(gradients[1:], found[1:], strict=True):
                    total[:, :, own[source][part.keys]] += gradient
    return (output, *gradients)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("most_scores", [1, 7 * BATCH * HEADS * 6, 2**26])
def test_output_and_gradients_are_those_of_torch(ranks: int, most_scores: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(ring, "_MOST_SCORES", most_scores)
    torch.manual_seed(0)
    query = torch.randn(BATCH, HEADS, SEQ, SIZE, requires_grad=True)
    key, value = (torch.randn(BATCH, KV_HEADS, SEQ, SIZE, requires_grad=True) for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.autograd.backward((expected * torch.arange(SEQ)[None, None, :, None]).sum())
    found = _attention(ranks, query.detach(), key.detach(), value.detach())
    for own, reference in zip(found, (expected, query.grad, key.grad, value.grad), strict=True):
        assert reference is not None
        torch.testing.assert_close(own, reference.detach(), rtol=1e-4, atol=1e-4)
