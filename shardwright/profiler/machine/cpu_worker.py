"""One rank of the CPU measurement: `python -m shardwright.profiler.machine.cpu_worker RANK RANKS THREADS SECONDS
FOLDER`.

All ranks measure the same thing at the same time, as in training. Writes `FOLDER/rank-RANK.json`.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from .resident import resident_bytes

# (tokens, inputs, outputs) of linear layers of small transformers: projections, both halves of a feed-forward block.
_LINEAR_SHAPES = ((512, 256, 1024), (512, 1024, 256), (1024, 512, 512), (512, 512, 2048))
_LINEAR_FLOPS = sum(3 * 2.0 * tokens * inputs * outputs for tokens, inputs, outputs in _LINEAR_SHAPES)
_COPY_BYTES = 64 * 2**20
_MESSAGE_BYTES = (4 * 2**10, 64 * 2**10, 2**20, 8 * 2**20)
_CHAIN = 64
_LONG_SECONDS = 0.25


@dataclass(frozen=True)
class RankRates:
    """Measurements of one rank: the fields of `CpuRates`, and the seconds of an all-reduce by its size in bytes.

    `cpu_share`: CPU time over elapsed time of the rank's threads during the linear layers.
    """

    fp32_flops_per_s: float
    bf16_flops_per_s: float
    fp32_attention_flops_per_s: float
    bf16_attention_flops_per_s: float
    elementwise_bytes_per_s: float
    copy_bytes_per_s: float
    dispatch_seconds: float
    all_reduce_seconds: dict[int, float]
    process_bytes: float
    cpu_share: float


@dataclass(frozen=True)
class Timing:
    """Repeats of one piece of work: the lower quartile of their seconds, and their total seconds.

    Other programs only ever add time. Rates are stored, so one busy moment must not spoil every later plan.
    """

    quartile_seconds: float
    wall_seconds: float
    cpu_seconds: float


def measure_rank(ranks: int, seconds: float) -> RankRates:
    """Measure within a process group of `ranks`, for about `seconds`."""
    process_bytes = resident_bytes()
    fp32 = _linear_timings(torch.float32, ranks, 0.2 * seconds)
    bf16 = _linear_timings(torch.bfloat16, ranks, 0.2 * seconds)
    wall_seconds = sum(timing.wall_seconds for timing in fp32 + bf16)
    return RankRates(
        process_bytes=process_bytes,
        cpu_share=sum(timing.cpu_seconds for timing in fp32 + bf16) / wall_seconds / torch.get_num_threads(),
        fp32_flops_per_s=_LINEAR_FLOPS / sum(timing.quartile_seconds for timing in fp32),
        bf16_flops_per_s=_LINEAR_FLOPS / sum(timing.quartile_seconds for timing in bf16),
        fp32_attention_flops_per_s=_attention_flops_per_s(torch.float32, ranks, 0.08 * seconds),
        bf16_attention_flops_per_s=_attention_flops_per_s(torch.bfloat16, ranks, 0.08 * seconds),
        elementwise_bytes_per_s=_elementwise_bytes_per_s(ranks, 0.14 * seconds),
        copy_bytes_per_s=_copy_bytes_per_s(ranks, 0.08 * seconds),
        dispatch_seconds=_dispatch_seconds(ranks, 0.05 * seconds),
        all_reduce_seconds=_all_reduce_seconds(0.17 * seconds) if ranks > 1 else {},
    )


def _timed(work: Callable[[], object], ranks: int, seconds: float) -> Timing:
    """Repeat `work` for `seconds` after one warm-up, at least four times, or once where the warm-up was long: a CPU without
    instructions for bf16 takes a second for a matmul, which noise changes little. All ranks start together."""
    began = time.perf_counter()
    work()
    fewest = 4 if time.perf_counter() - began < max(seconds, _LONG_SECONDS) else 1
    if ranks > 1:
        dist.barrier()
    times: list[float] = []
    began, cpu_began = time.perf_counter(), time.process_time()
    while len(times) < fewest or time.perf_counter() < began + seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Timing(
        quartile_seconds=statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0],
        wall_seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
    )


def _linear_timings(dtype: torch.dtype, ranks: int, seconds: float) -> list[Timing]:
    """Time forward and backward of one linear layer of each shape: three matmuls each."""
    timings: list[Timing] = []
    for tokens, inputs, outputs in _LINEAR_SHAPES:
        x = torch.randn(tokens, inputs, dtype=dtype, requires_grad=True)
        weight = torch.randn(outputs, inputs, dtype=dtype, requires_grad=True)
        gradient = torch.randn(tokens, outputs, dtype=dtype)

        def forward_and_backward(
            x: torch.Tensor = x, weight: torch.Tensor = weight, gradient: torch.Tensor = gradient
        ) -> object:
            return torch.autograd.grad(torch.nn.functional.linear(x, weight), (x, weight), gradient)

        timings.append(_timed(forward_and_backward, ranks, seconds / len(_LINEAR_SHAPES)))
    return timings


def _attention_flops_per_s(dtype: torch.dtype, ranks: int, seconds: float) -> float:
    """Fused causal attention forward and backward: 2 and 5 matmuls
    (Dao 2023, section 4.1); only the causal half counts."""
    batch_heads, length, head_size = 16, 256, 64
    query, key, value = (
        torch.randn(1, batch_heads, length, head_size, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    gradient = torch.randn(1, batch_heads, length, head_size, dtype=dtype)

    def forward_and_backward() -> object:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return torch.autograd.grad(out, (query, key, value), gradient)

    flops = 7 * 2.0 * batch_heads * length * length * head_size / 2
    return flops / _timed(forward_and_backward, ranks, seconds).quartile_seconds


def _elementwise_bytes_per_s(ranks: int, seconds: float) -> float:
    """An eager RMS norm, a residual addition and a gated activation, forward and backward, in fp32 and bf16.

    Bytes are counted as in the cost model: 6, 3 and 5 elements read or written forward, twice that backward.
    """
    moved_bytes, total_seconds = 0.0, 0.0
    for dtype in (torch.float32, torch.bfloat16):
        x, residual, gradient = (torch.randn(512, 512, dtype=dtype, requires_grad=True) for _ in range(3))
        gate, up = (torch.randn(512, 2048, dtype=dtype, requires_grad=True) for _ in range(2))
        weight = torch.ones(512, dtype=dtype, requires_grad=True)

        def norm_and_add(
            x: torch.Tensor = x,
            residual: torch.Tensor = residual,
            weight: torch.Tensor = weight,
            gradient: torch.Tensor = gradient,
        ) -> object:
            wide = x.float()
            scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
            out = weight * scaled.to(x.dtype) + residual
            return torch.autograd.grad(out, (x, residual, weight), gradient)

        def gated(gate: torch.Tensor = gate, up: torch.Tensor = up) -> object:
            return torch.autograd.grad(torch.nn.functional.silu(gate) * up, (gate, up), up)

        total_seconds += _timed(norm_and_add, ranks, seconds / 4).quartile_seconds
        total_seconds += _timed(gated, ranks, seconds / 4).quartile_seconds
        moved_bytes += 3 * x.element_size() * (9.0 * x.numel() + 5.0 * gate.numel())
    return moved_bytes / total_seconds


def _copy_bytes_per_s(ranks: int, seconds: float) -> float:
    source = torch.zeros(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _timed(lambda: target.copy_(source), ranks, seconds).quartile_seconds


def _dispatch_seconds(ranks: int, seconds: float) -> float:
    x = torch.ones(8, requires_grad=True)

    def chain() -> object:
        y = x
        for _ in range(_CHAIN):
            y = y * 1.0
        return torch.autograd.grad(y.sum(), x)

    return _timed(chain, ranks, seconds).quartile_seconds / (2 * (_CHAIN + 1))


def _all_reduce_seconds(seconds: float) -> dict[int, float]:
    """Return the median over a fixed number of repeats, which must be equal on every rank."""
    found: dict[int, float] = {}
    for size_bytes in _MESSAGE_BYTES:
        tensor = torch.zeros(size_bytes // 4)
        dist.all_reduce(tensor)
        start = time.perf_counter()
        dist.all_reduce(tensor)
        once = torch.tensor([time.perf_counter() - start])
        dist.all_reduce(once, op=dist.ReduceOp.MAX)
        repeats = int(min(max(seconds / len(_MESSAGE_BYTES) / once.item(), 5), 200))
        times: list[float] = []
        for _ in range(repeats):
            start = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        found[size_bytes] = statistics.median(times)
    return found


def main(arguments: list[str]) -> None:
    rank, ranks, threads = (int(argument) for argument in arguments[:3])
    seconds, folder = float(arguments[3]), Path(arguments[4])
    torch.set_num_threads(threads)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=ranks)
    rates = measure_rank(ranks, seconds)
    (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(rates)), encoding="utf-8")
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
    # all is written; running threads of the process group would abort the interpreter at its end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
