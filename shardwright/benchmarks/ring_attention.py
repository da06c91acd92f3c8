"""Attention of a ring beside torch's own, on this machine's CPU: python -m shardwright.benchmarks.ring_attention.

Forward and backward of one causal block on one core, by the fused kernel of a ring, by its plain matmuls (which run where documents
are packed), and by torch's `scaled_dot_product_attention`. The three take turns; the table has medians.
"""

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from shardwright.base import units as readable
from shardwright.executor.context import ring_attention
from shardwright.executor.model import MeshRanks

HEADS, SIZE = 8, 64
TOKENS = (1024, 4096)
ROUNDS = 5


def main() -> None:
    """Print one row for each length."""
    torch.set_num_threads(1)
    table = Table("tokens", "torch", "ring, fused", "ring, plain", title=f"{HEADS} heads of {SIZE}, fp32, one core")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            ranks = MeshRanks(init_device_mesh("cpu", (1,)))
            for tokens in TOKENS:
                own, *others = _medians(tokens, ranks)
                beside = (f"{readable.seconds(taken)} ({taken / own:.1f} x)" for taken in others)
                table.add_row(f"{tokens:,}", readable.seconds(own), *beside)
        finally:
            dist.destroy_process_group()
    Console().print(table)


def _medians(tokens: int, ranks: MeshRanks) -> list[float]:
    query, key, value = (torch.randn(1, HEADS, tokens, SIZE, requires_grad=True) for _ in range(3))
    one_document = torch.zeros(1, 1, tokens, dtype=torch.int64)
    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True),
        lambda: ring_attention(query, key, value, ranks, None),
        lambda: ring_attention(query, key, value, ranks, None, one_document),
    )
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, seconds in zip(ways, taken, strict=True):
            start = time.perf_counter()
            torch.autograd.backward(way().sum())
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]


if __name__ == "__main__":
    main()
