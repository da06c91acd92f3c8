"""The rate of matmuls after sustained load: a device that reaches its power limit lowers its clock."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shardwright.costmodel.op_times import SUSTAINED_SHARE
from shardwright.profiler.timing import Machine, Work, random_tensor
from shardwright.specs import Figure

_GPU_SIZE, _CPU_SIZE = 8192, 1024
_CHAIN_SECONDS = 0.25  # nothing but the matmul runs for this long
_CHAINS = 4  # in one timing
_STARTS = 5
_LAST_PART = 0.25


@dataclass(frozen=True)
class SustainedMatmulProbe:
    """One large square matmul again and again for `for_seconds` (`FigureProbe`): bf16 on a GPU, fp32 on a CPU.

    The start is timed as the matmuls of every series are: one at a time, with pauses. The end is the last quarter.
    """

    for_seconds: float
    name: str = "sustained matmul"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`sustained_matmul_share`, the rate at the end over that at the start; both rates; clock and power at both ends,
        where the device reports them; `sustained_seconds`, how long the load lasted."""
        size, matmul = _matmul(machine)
        flops = 2.0 * size**3
        starts = machine.seconds(matmul, _STARTS)
        chain = _chain(matmul, statistics.median(starts))
        before = _state(machine, chain.work, "start")
        each = self._loaded(machine, chain)
        after = _state(machine, chain.work, "end")
        start, end = ([flops / seconds for seconds in some] for some in (starts, _last(each)))
        return {
            SUSTAINED_SHARE: _share(start, end),
            "sustained_start_flops_per_s": _figure(start, "FLOP/s", f"matmul of {size:,} at the start, with pauses"),
            "sustained_end_flops_per_s": _figure(end, "FLOP/s", f"matmul of {size:,} at the end of the load"),
            "sustained_seconds": Figure(
                value=sum(each) * chain.matmuls, unit="s", meaning="load behind the sustained rates"
            ),
            **before,
            **after,
        }

    def _loaded(self, machine: Machine, chain: "_Chain") -> list[float]:
        """Return the seconds of one matmul in each chain, until the load lasted long enough."""
        each: list[float] = []
        while sum(each) * chain.matmuls < self.for_seconds:
            each += [seconds / chain.matmuls for seconds in machine.seconds(chain.work, _CHAINS)]
        return each


@dataclass(frozen=True)
class _Chain:
    """`matmuls` matmuls, one right after the other."""

    work: Work
    matmuls: int


def _matmul(machine: Machine) -> tuple[int, Work]:
    on_gpu = machine.device.type == "cuda"
    size, dtype = (_GPU_SIZE, torch.bfloat16) if on_gpu else (_CPU_SIZE, torch.float32)
    a, b, out = (random_tensor((size, size), dtype, machine.device) for _ in range(3))
    return size, lambda: torch.mm(a, b, out=out)


def _chain(matmul: Work, seconds: float) -> _Chain:
    count = max(1, math.ceil(_CHAIN_SECONDS / seconds))

    def work() -> None:
        for _ in range(count):
            matmul()

    return _Chain(work, count)


def _last(each: Sequence[float]) -> Sequence[float]:
    return each[-max(1, round(_LAST_PART * len(each))) :]


def _state(machine: Machine, load: Work, when: str) -> dict[str, Figure]:
    """Return the clock and the power while the load runs. A GPU only starts it here."""
    load()
    told = {"clock_hz": (machine.clock_hz(), "Hz"), "power_watts": (machine.power_watts(), "W")}
    machine.synchronize()
    return {
        f"sustained_{when}_{name}": Figure(
            value=value, unit=unit, meaning=f"{name.partition('_')[0]} at the {when} of the load"
        )
        for name, (value, unit) in told.items()
        if value is not None
    }


def _share(start: Sequence[float], end: Sequence[float]) -> Figure:
    usual = statistics.median(start)
    return Figure(
        value=statistics.median(end) / usual,
        unit="share",
        meaning="rate of a matmul after sustained load over its rate with pauses",
        low=min(end) / usual,
        high=max(end) / usual,
    )


def _figure(values: Sequence[float], unit: str, meaning: str) -> Figure:
    return Figure(value=statistics.median(values), unit=unit, meaning=meaning, low=min(values), high=max(values))
