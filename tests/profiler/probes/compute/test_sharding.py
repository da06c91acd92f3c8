"""What FSDP2 adds, told from the work it is added to."""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from shardwright.profiler.probes.compute import sharding as sharding_probe
from shardwright.profiler.probes.compute.sharding import ShardingProbe
from shardwright.profiler.timing.probe import UnavailableError, Work


@dataclass
class Clock:
    """A CPU and its clock, no more."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def seconds(self, work: Work, repeats: int) -> list[float]:
        def once() -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        return [once() for _ in range(repeats)]


@dataclass
class Counted:
    """Seconds by rule: a step takes 1 s, 0.5 s for each further microbatch, and as much again a byte; matmuls 0.1 s."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def seconds(self, work: Work, repeats: int) -> list[float]:
        kind = type(work).__name__
        if kind == "_Matmuls":
            return [0.1] * repeats
        assert isinstance(work, partial)
        (count,), width = work.args, work.func.__self__._width  # type: ignore[attr-defined] # a bound method
        unit_bytes = 4.0 * 7 * width**2
        return [4 * (0.02 + 0.3e-9 * unit_bytes) + count * (0.1 + 4 * (0.01 + 0.1e-9 * unit_bytes))] * repeats


def test_the_figures_of_a_cpu() -> None:
    """On the real thing; how long it takes is the machine's matter."""
    found = ShardingProbe().measure(Clock())  # type: ignore[arg-type] # of a machine only what is used
    assert set(found) == {
        "sharding_unit_pass_seconds", "sharding_unit_seconds", "sharding_seconds_per_byte", "accumulation_seconds_per_byte",
    }  # fmt: skip
    assert any(figure.value > 0 for figure in found.values())
    assert not dist.is_initialized()


def test_in_another_format_the_names_end_in_it() -> None:
    found = ShardingProbe("bf16").measure(Counted())  # type: ignore[arg-type] # as above
    assert "sharding_seconds_per_byte_bf16" in found
    assert all(name.endswith("_bf16") for name in found)


def test_parameters_are_cast_for_the_passes_and_gradients_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MixedPrecisionPolicy] = []

    def noted(module: torch.nn.Module, **options: Any) -> object:
        seen.append(options["mp_policy"])
        return fully_shard(module, **options)

    monkeypatch.setattr(sharding_probe, "fully_shard", noted)
    ShardingProbe("bf16").measure(Counted())  # type: ignore[arg-type] # as above
    assert {(each.param_dtype, each.reduce_dtype) for each in seen} == {(torch.bfloat16, torch.float32)}


def test_beside_a_gpu_it_is_hidden() -> None:
    with pytest.raises(UnavailableError, match="CPUs only"):
        ShardingProbe().measure(Clock(torch.device("cuda")))  # type: ignore[arg-type] # as above


def test_differences_are_taken_where_they_belong() -> None:
    """Four units; what depends on bytes is told from what does not by two widths, a step's from a microbatch's by counts."""
    found = {name: figure.value for name, figure in ShardingProbe().measure(Counted()).items()}  # type: ignore[arg-type] # as above
    tiny_bytes = 4.0 * 7 * 32**2
    assert found["sharding_unit_pass_seconds"] == pytest.approx(0.01 + 0.1e-9 * tiny_bytes)
    assert found["sharding_unit_seconds"] == pytest.approx(0.02 + 0.3e-9 * tiny_bytes)
    assert found["sharding_seconds_per_byte"] == pytest.approx(0.3e-9)
    assert found["accumulation_seconds_per_byte"] == pytest.approx(0.1e-9)


def test_gradients_are_reduced_in_the_last_microbatch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As our executor does below ZeRO-2, whose steps these figures are of."""
    told: dict[str, list[bool]] = {}
    for name in ("set_requires_gradient_sync", "set_reshard_after_backward", "set_is_last_backward"):
        calls, real = told.setdefault(name, []), getattr(FSDPModule, name)

        def noted(module: object, value: bool, calls: list[bool] = calls, real: Any = real) -> None:
            calls.append(value)
            real(module, value)

        monkeypatch.setattr(FSDPModule, name, noted)
    with sharding_probe._one_rank() as mesh:
        sharding_probe._Units(8, mesh, torch.float32)._step(3)
    assert told == {name: [False, False, True] for name in told}
