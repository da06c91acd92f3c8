"""Sums over blocks of keys: beside what torch's own context parallelism moves, and by hand."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as context_parallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardwright.costmodel.layers.exchanges.partial_results import LocalElements, merging_bytes
from shardwright.specs.stack import named_stack
from tests.costmodel.layers import test_counted_traffic as traffic

# The exchange itself is not memory traffic; zeros are written alone, and the reads of their pattern are taken off below.
EXCHANGED = {"all_gather_into_tensor", "all_to_all_single", "wait_tensor", "_wrap_tensor_autograd"}
LENGTH, WIDTH = 64, 512


@pytest.fixture
def fake_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start one rank of a group whose other ranks do not exist."""
    monkeypatch.setattr(traffic, "ELSEWHERE", traffic.ELSEWHERE | EXCHANGED)

    def start(rank: int, ranks: int) -> dist.ProcessGroup:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        group = dist.group.WORLD
        assert group is not None
        return group

    yield start
    if dist.is_initialized():
        dist.destroy_process_group()


def heads(count: int, dtype: torch.dtype) -> Tensor:
    """As a projection writes them."""
    return torch.empty(1, LENGTH, count, WIDTH, dtype=dtype).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, **others: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(query), torch.empty(query.shape[:-1])


def attend_backward(query: Tensor, key: Tensor, value: Tensor, **others: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def moved(group: dist.ProcessGroup, query_heads: int, kv_heads: int, dtype: torch.dtype) -> tuple[int, int]:
    query, key, value = heads(query_heads, dtype), heads(kv_heads, dtype), heads(kv_heads, dtype)
    with traffic._Traffic() as forward:
        out, log_sum = context_parallel._templated_ring_attention(group, 2, attend, query, key, value, is_causal=True)
    before = (query, key, value, out, log_sum, True)
    with traffic._Traffic() as backward:
        gradient = torch.empty_like(query)
        context_parallel._templated_ring_attention_backward(group, 2, attend_backward, gradient, "grad_out", *before)
    zeros_read = dtype.itemsize * (query.numel() + key.numel() + value.numel())
    return forward.moved, backward.moved - zeros_read


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("query_heads", "kv_heads"), [(4, 2), (4, 4), (8, 2)])
def test_eager_sums_move_what_torchs_kernels_move(
    fake_ranks: Any, query_heads: int, kv_heads: int, ranks: int, dtype: torch.dtype
) -> None:
    """That of the rank with most of it: the last one, or with many heads on a KV head the first."""
    counted = [moved(fake_ranks(rank, ranks), query_heads, kv_heads, dtype) for rank in range(ranks)]
    queries, keys_values = (np.array([float(count * LENGTH * WIDTH)]) for count in (query_heads, 2 * kv_heads))
    elements = LocalElements(queries, queries, keys_values)
    said = merging_bytes(named_stack("shardwright"), elements, dtype.itemsize, np.array([ranks]))
    assert said.forward[0] == pytest.approx(max(forward for forward, _ in counted), rel=0.02)
    assert said.backward[0] == pytest.approx(max(backward for _, backward in counted), rel=0.02)


def test_a_compiler_reads_each_block_once_and_the_sum_between() -> None:
    """Four blocks of 2 bytes: the output is read 4 times, written once, and its sum in fp32 written and read twice."""
    one, none = np.array([1.0]), np.array([0.0])
    said = merging_bytes(named_stack("torchtitan"), LocalElements(one, none, none), 2, np.array([4]))
    assert said.forward[0] == 4 * 2 + 2 + 2 * (4 + 4)


def test_the_whole_chain_costs_four_times_one_kernel() -> None:
    """38 bytes for each output and later block in eager fp32, 6 where one kernel adds in 16 bits."""
    one, none = np.array([1.0]), np.array([0.0])
    only = LocalElements(one, none, none)
    chain, kernel = (
        merging_bytes(named_stack(name), only, 2, np.array([9])).forward[0]
        - merging_bytes(named_stack(name), only, 2, np.array([8])).forward[0]
        for name in ("shardwright", "megatron-core")
    )
    assert (chain, kernel) == (38, 6)
