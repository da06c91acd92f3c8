from typing import Any, get_args

import pytest
import torch
from torch.nn import functional

from shardwright.costmodel.op_times.protocol import MatmulPart
from shardwright.profiler.probes.compute.grouped_matmul import GroupedMatmulProbe, LoopedMatmulProbe
from shardwright.profiler.sizes.linears import Linear
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.number_format import random_tensor
from shardwright.profiler.timing.probe import Sizes, UnavailableError
from shardwright.specs.profile import Format
from tests.profiler.kernel_trace import kernels_of
from tests.profiler.results_alone import ResultsAlone
from tests.profiler.steady_machine import SteadyMachine

_PARTS: tuple[MatmulPart, ...] = get_args(MatmulPart)


def _at(part: MatmulPart, linear: Linear) -> Sizes:
    return (*linear.sizes(part), float(linear.groups))


def test_the_three_passes_are_the_kernels_that_autograd_runs() -> None:
    linear = Linear(tokens=16, inputs=32, outputs=80, groups=3)
    x = torch.randn(48, 32, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(3, 80, 32, dtype=torch.bfloat16, requires_grad=True)
    ends, gradient = torch.tensor([16, 32, 48], dtype=torch.int32), torch.randn(48, 80, dtype=torch.bfloat16)

    def layer() -> object:
        out = functional.grouped_mm(x, weight.transpose(-2, -1), offs=ends)
        return torch.autograd.grad(out, (x, weight), gradient)

    measured = [
        kernel
        for part in _PARTS
        for kernel in kernels_of(GroupedMatmulProbe(part, "bf16", ()).prepare(_at(part, linear), SteadyMachine()))
    ]
    assert len(measured) == 3
    assert sorted(map(str, measured)) == sorted(map(str, kernels_of(layer)))


def test_each_group_multiplies_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []

    def spy(*arguments: Any) -> torch.Tensor:
        made.append(random_tensor(*arguments))
        return made[-1]

    monkeypatch.setattr("shardwright.profiler.probes.compute.grouped_matmul.random_tensor", spy)
    out = GroupedMatmulProbe("forward", "fp32", ()).prepare((4.0, 16.0, 8.0, 3.0), SteadyMachine())
    result = [out() for _ in range(len(made) // 2)][-1]  # of the last pair of operands, or of the one before
    assert isinstance(result, torch.Tensor)
    expected = [
        torch.einsum("gtk,gnk->gtn", tokens.view(3, 4, 16), weights).reshape(12, 8)
        for tokens, weights in zip(made[::2], made[1::2], strict=True)
    ]
    assert any(torch.allclose(result, each, atol=1e-5) for each in expected)


@pytest.mark.parametrize("part", _PARTS)
@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(part: MatmulPart, number_format: Format) -> None:
    probe = GroupedMatmulProbe(part, number_format, ())
    at = _at(part, Linear(tokens=256, inputs=1024, outputs=2048, groups=6))
    with ResultsAlone(), LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        for _ in range(20):
            work()
    assert live.peak <= probe.needed_bytes(at) <= 2 * live.peak + 64 * 2**20


def test_a_torch_without_grouped_matmuls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(functional, "grouped_mm")
    work = GroupedMatmulProbe("forward", "bf16", ()).prepare((16.0, 16.0, 16.0, 2.0), SteadyMachine())
    assert isinstance(work(), torch.Tensor)  # under its older name
    monkeypatch.delattr(torch, "_grouped_mm")
    with pytest.raises(UnavailableError, match="has no grouped_mm"):
        GroupedMatmulProbe("forward", "bf16", ()).prepare((16.0, 16.0, 16.0, 2.0), SteadyMachine())


def test_between_has_whole_groups() -> None:
    probe = GroupedMatmulProbe("forward", "bf16", ())
    assert probe.between((64.0, 64.0, 64.0, 4.0), (256.0, 64.0, 64.0, 16.0)) == (128.0, 64.0, 64.0, 8.0)


class TestLoop:
    """One matmul for each expert."""

    def test_the_three_passes_are_the_kernels_of_as_many_linear_layers(self) -> None:
        linear = Linear(tokens=16, inputs=32, outputs=80, groups=3)
        tokens = [torch.randn(16, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        weights = [torch.randn(80, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]

        def layer() -> object:
            outs = [functional.linear(x, w) for x, w in zip(tokens, weights, strict=True)]
            return torch.autograd.grad(outs, (*tokens, *weights), [torch.randn_like(out) for out in outs])

        measured = [
            kernel
            for part in _PARTS
            for kernel in kernels_of(LoopedMatmulProbe(part, "bf16", ()).prepare(_at(part, linear), SteadyMachine()))
        ]
        assert len(measured) == 9
        real = [kernel for kernel in kernels_of(layer) if kernel[0].startswith("mm")]
        assert sorted(map(str, measured)) == sorted(map(str, real))

    @pytest.mark.parametrize("part", _PARTS)
    @pytest.mark.parametrize("number_format", ["fp32", "bf16"])
    def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(
        self, part: MatmulPart, number_format: Format
    ) -> None:
        probe = LoopedMatmulProbe(part, number_format, ())
        at = _at(part, Linear(tokens=256, inputs=1024, outputs=2048, groups=6))
        with ResultsAlone(), LiveBytes() as live:
            work = probe.prepare(at, SteadyMachine())
            for _ in range(20):
                work()
        assert live.peak <= probe.needed_bytes(at) <= 2 * live.peak + 64 * 2**20

    def test_in_eight_bits_no_more_memory_is_taken_than_asked_for(self) -> None:
        probe, at = LoopedMatmulProbe("forward", "fp8", ()), (32.0, 128.0, 256.0, 6.0)
        with LiveBytes() as live:
            probe.prepare(at, SteadyMachine())()
        assert live.peak <= probe.needed_bytes(at)

    def test_its_name_and_the_sizes_between(self) -> None:
        probe = LoopedMatmulProbe("forward", "bf16", ())
        assert probe.variant == "looped_forward"
        assert probe.between((64.0, 64.0, 64.0, 4.0), (256.0, 64.0, 64.0, 16.0)) == (128.0, 64.0, 64.0, 8.0)

    def test_a_format_that_this_machine_lacks_is_said(self) -> None:
        with pytest.raises(UnavailableError, match="tf32 needs a CUDA device"):
            LoopedMatmulProbe("forward", "tf32", ()).prepare((16.0, 16.0, 16.0, 2.0), SteadyMachine())
