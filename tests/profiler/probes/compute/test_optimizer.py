from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shardwright.executor.options import RunOptions
from shardwright.executor.training.optimizer import build_optimizer
from shardwright.profiler.probes.compute.optimizer import (
    ClipProbe,
    HostAdamWProbe,
    Implementation,
    OptimizerProbe,
    family_host,
    family_parameters,
    parameter_shapes,
)
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.probe import UnavailableError
from shardwright.specs.optimizers import OptimizerName
from shardwright.specs.profile import Format
from tests.profiler.kernel_trace import kernels_of
from tests.profiler.steady_machine import SteadyMachine

_BUILDS: list[tuple[OptimizerName, Implementation]] = [("adamw", "fused"), ("adamw", "foreach"), ("sgd", "foreach")]


@given(st.integers(1, 500), st.integers(0, 10**9))
def test_a_list_has_as_many_tensors_and_elements_as_said(tensors: int, more: int) -> None:
    shapes = parameter_shapes(64 * tensors + more, tensors)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    assert (len(sizes), sum(sizes)) == (tensors, 64 * tensors + more)
    assert min(sizes) > 0


def test_a_list_is_like_a_models() -> None:
    shapes = parameter_shapes(1_000_000, 19)
    assert shapes[0] == (1, 250_000 + (750_000 - 4 * 4096) % 14)
    assert [len(shape) for shape in shapes].count(1) == 4
    assert len({shape for shape in shapes if len(shape) == 2}) == 2
    assert parameter_shapes(100, 1) == [(1, 100)]


@pytest.mark.parametrize(("name", "implementation"), _BUILDS)
def test_a_step_is_the_executors(name: OptimizerName, implementation: Implementation, tmp_path: Path) -> None:
    model = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in parameter_shapes(20_000, 19))
    for parameter in model:
        parameter.grad = torch.randn_like(parameter)
    real = build_optimizer([model], name, RunOptions(steps=1, out=tmp_path))
    probe = OptimizerProbe(name, implementation, "fp32", ())
    measured = kernels_of(probe.prepare((20_000.0, 19.0), SteadyMachine()))
    real.step()  # makes the state
    names = [kernel for kernel, _ in kernels_of(lambda: real.step())]
    if implementation == "foreach" and name == "adamw":
        assert all("fused" not in kernel for kernel, _ in measured)
        assert any("foreach" in kernel for kernel, _ in measured)
    else:
        assert [kernel for kernel, _ in measured] == names
    assert measured != []


def test_vectors_do_not_decay() -> None:
    work = OptimizerProbe("adamw", "fused", "fp32", ()).prepare((20_000.0, 19.0), SteadyMachine())
    optimizer = work.__self__  # type: ignore[attr-defined]  # the step of an optimizer
    decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in optimizer.param_groups}
    assert decays == {0.1: {2}, 0.0: {1}}


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "implementation"), _BUILDS)
@pytest.mark.parametrize("tensors", [1.0, 20.0])
def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(
    name: OptimizerName, implementation: Implementation, tensors: float, number_format: Format
) -> None:
    probe, at = OptimizerProbe(name, implementation, number_format, ()), (2_000_000.0, tensors)
    with LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        work()
    assert live.peak <= probe.needed_bytes(at) <= 2 * live.peak


@pytest.mark.parametrize("tensors", [1.0, 20.0])
def test_clipping_asks_for_what_it_takes(tensors: float) -> None:
    probe, at = ClipProbe("fp32", ()), (2_000_000.0, tensors)
    with LiveBytes() as live:
        probe.prepare(at, SteadyMachine())()
    assert live.peak <= probe.needed_bytes(at) <= 2.5 * live.peak


def test_clipping_gives_the_norm_and_scales_every_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []

    def ones(shape: tuple[int, ...], *_: object) -> torch.Tensor:
        made.append(torch.full(shape, 2.0))
        return made[-1]

    monkeypatch.setattr("shardwright.profiler.probes.compute.optimizer.random_tensor", ones)
    work = ClipProbe("fp32", ()).prepare((10_000.0, 19.0), SteadyMachine())
    assert work() == pytest.approx(2 * 10_000**0.5)
    scaled = [kernel for kernel in kernels_of(work) if "_foreach_mul_" in kernel[0]]
    assert len(scaled) == 1
    assert all(torch.equal(each, torch.full_like(each, 2.0)) for each in made)


def test_host_steps_run_on_as_many_threads_as_said_and_put_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: None = None) -> None:
        seen.append(torch.get_num_threads())
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    HostAdamWProbe(()).prepare((4096.0, float(before + 1)), SteadyMachine())()
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before


def test_a_host_without_the_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scarce:
        available = 1e9

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Scarce)
    with pytest.raises(UnavailableError, match=r"needs 1\.6 GB, 1\.0 GB are free"):
        HostAdamWProbe(()).prepare((1e8, 1.0), SteadyMachine())


def test_between_never_has_more_tensors_than_the_elements_fill() -> None:
    probe = OptimizerProbe("adamw", "fused", "fp32", ())
    assert probe.between((2.0**16, 1.0), (2.0**20, 100.0)) == (2.0**18, 10.0)
    assert probe.between((1024.0, 100.0), (4096.0, 100.0)) is None
    assert HostAdamWProbe(()).between((2.0**18, 1.0), (2.0**20, 4.0)) == (2.0**19, 2.0)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_families_can_be_filled(device_type: str) -> None:
    for elements, tensors in family_parameters(device_type):
        assert min(torch.Size(shape).numel() for shape in parameter_shapes(int(elements), int(tensors))) > 16
    assert {threads for _, threads in family_host(8)} == {1.0, 2.0, 4.0, 8.0}
    assert {threads for _, threads in family_host(1)} == {1.0}
