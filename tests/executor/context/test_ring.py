"""The ring's attention on one process: one fused kernel, and tiles of any size, give what torch's attention gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shardwright.executor.context import Dealing, blocks, ring

BATCH, HEADS, KV_HEADS, SEQ, SIZE = 2, 4, 2, 24, 8


Kernel = Callable[[Tensor, Tensor | None], bool]


def _plain(_query: Tensor, _documents: Tensor | None) -> bool:
    return False


def _attention(ranks: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Return the output of all ranks and the gradients of their sum, weighted by position, in the order of the sequence."""
    dealing, width = Dealing(SEQ, ranks, 1), value.shape[-1]
    output = query.new_zeros(*query.shape[:-1], width)
    gradients = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    own = [dealing.of_group(rank) for rank in range(ranks)]
    given = torch.arange(SEQ).to(query.dtype)[None, None, :, None].expand_as(output)
    for rank in range(ranks):
        rows = own[rank]
        logs = torch.full((BATCH, HEADS, len(rows)), -torch.inf)
        mine, sums = query[:, :, rows], torch.zeros(BATCH, HEADS, len(rows), width)
        held = {source: (key[:, :, own[source]], value[:, :, own[source]]) for source in range(ranks)}
        for source, tensors in held.items():
            for part in ring._parts(rank, source, mine):
                (keys, values), q = (tensor[:, :, part.keys] for tensor in tensors), part.queries
                found = blocks.attend(mine[:, :, q], keys, values, part.seen, SIZE**-0.5)
                ring._add(sums[:, :, q], logs[:, :, q], *found)
        output[:, :, rows] = sums.to(query.dtype)
        whole = (mine, given[:, :, rows], output[:, :, rows], logs)
        for source, tensors in held.items():
            for part in ring._parts(rank, source, mine):
                (keys, values), q = (tensor[:, :, part.keys] for tensor in tensors), part.queries
                queries = blocks.Queries(*(tensor[:, :, q] for tensor in whole))
                of_queries, *others = blocks.block_gradients(queries, keys, values, part.seen, SIZE**-0.5)
                gradients[0][:, :, rows[q]] += of_queries
                for total, gradient in zip(gradients[1:], others, strict=True):
                    total[:, :, own[source][part.keys]] += gradient
    return (output, *gradients)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    ("kernel", "most_scores"), [(blocks.has_kernel, 1), (_plain, 1), (_plain, 7 * BATCH * HEADS * 6), (_plain, 2**26)]
)
@pytest.mark.parametrize("width", [SIZE, SIZE // 2])
def test_output_and_gradients_are_those_of_torch(
    ranks: int, kernel: Kernel, most_scores: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "has_kernel", kernel)
    monkeypatch.setattr(ring, "_MOST_SCORES", most_scores)
    torch.manual_seed(0)
    query = torch.randn(BATCH, HEADS, SEQ, SIZE, requires_grad=True)
    key = torch.randn(BATCH, KV_HEADS, SEQ, SIZE, requires_grad=True)
    value = torch.randn(BATCH, KV_HEADS, SEQ, width, requires_grad=True)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.autograd.backward((expected * torch.arange(SEQ)[None, None, :, None]).sum())
    found = _attention(ranks, query.detach(), key.detach(), value.detach())
    for own, reference in zip(found, (expected, query.grad, key.grad, value.grad), strict=True):
        assert reference is not None
        torch.testing.assert_close(own, reference.detach(), rtol=1e-4, atol=1e-4)


def test_a_fused_kernel_takes_all_queries_of_a_block_at_once() -> None:
    query = torch.empty(1, 2, 64, 8)
    assert [part.queries for part in ring._parts(1, 0, query)] == [slice(0, 64)]
    assert [part.keys for part in ring._parts(0, 1, query)] == [slice(0, 64)]


@pytest.mark.parametrize(
    ("dtype", "size", "runs"),
    [(torch.bfloat16, 128, True), (torch.float16, 64, True), (torch.float32, 64, False), (torch.bfloat16, 36, False)],
)
def test_a_gpu_has_a_kernel_for_16_bits_and_heads_of_whole_vectors(dtype: torch.dtype, size: int, runs: bool) -> None:
    query = torch.empty(1, 2, 8, size, dtype=dtype, device="meta")
    assert blocks.has_kernel(query, None) == runs
    assert not blocks.has_kernel(query, torch.zeros(1, 1, 8))


@pytest.mark.parametrize("width", [16, 8])
@pytest.mark.parametrize("diagonal", [0, None])
def test_the_kernel_of_a_gpu_is_called_as_its_schema_says(width: int, diagonal: int | None) -> None:
    """On the meta device torch checks arguments and shapes of the operators that a GPU would run."""
    options: Any = {"dtype": torch.bfloat16, "device": "meta"}
    query, key, value = (torch.empty(1, heads, 8, size, **options) for heads, size in ((4, 16), (2, 16), (2, width)))
    output, logs = blocks.attend(query, key, value, blocks.Seen(diagonal), 0.25)
    assert (output.shape, logs.shape) == ((1, 4, 8, width), (1, 4, 8))
    found = blocks.block_gradients(blocks.Queries(query, output, output, logs), key, value, blocks.Seen(diagonal), 0.25)
    assert [gradient.shape for gradient in found] == [query.shape, key.shape, value.shape]
