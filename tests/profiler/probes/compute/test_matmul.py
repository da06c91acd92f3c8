from typing import get_args

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from shardwright.costmodel.op_times.protocol import MatmulPart
from shardwright.profiler.probes.compute.matmul import MatmulProbe
from shardwright.profiler.sizes.linears import Linear
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.probe import UnavailableError
from shardwright.specs.profile import Format
from tests.profiler.kernel_trace import Kernel, kernels_of
from tests.profiler.results_alone import ResultsAlone
from tests.profiler.steady_machine import SteadyMachine

_PARTS: tuple[MatmulPart, ...] = get_args(MatmulPart)
_LINEAR = Linear(tokens=48, inputs=32, outputs=80)


def _probe(part: MatmulPart, number_format: Format = "fp32") -> MatmulProbe:
    return MatmulProbe(part, number_format, ())


def _kernels(part: MatmulPart, number_format: Format, linear: Linear) -> list[Kernel]:
    return kernels_of(_probe(part, number_format).prepare(linear.sizes(part), SteadyMachine()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_three_passes_are_the_kernels_that_autograd_runs(dtype: torch.dtype) -> None:
    x = torch.randn(_LINEAR.tokens, _LINEAR.inputs, dtype=dtype, requires_grad=True)
    weight = torch.randn(_LINEAR.outputs, _LINEAR.inputs, dtype=dtype, requires_grad=True)
    gradient = torch.randn(_LINEAR.tokens, _LINEAR.outputs, dtype=dtype)
    real = kernels_of(lambda: torch.autograd.grad(functional.linear(x, weight), (x, weight), gradient))
    number_format: Format = "fp32" if dtype == torch.float32 else "bf16"
    measured = [kernel for part in _PARTS for kernel in _kernels(part, number_format, _LINEAR)]
    assert len(real) == 3
    assert sorted(map(str, measured)) == sorted(map(str, real))


@pytest.mark.parametrize("part", _PARTS)
def test_flops_are_those_of_the_axes(part: MatmulPart) -> None:
    m, k, n = at = _LINEAR.sizes(part)
    work = _probe(part).prepare(at, SteadyMachine())
    with FlopCounterMode(display=False) as counter:
        result = work()
    assert counter.get_total_flops() == 2 * m * k * n
    assert isinstance(result, torch.Tensor)
    assert sorted(result.shape) == sorted((m, n))


@pytest.mark.parametrize("part", _PARTS)
@pytest.mark.parametrize("number_format", ["fp32", "bf16", "fp8"])
def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(part: MatmulPart, number_format: Format) -> None:
    probe, at = _probe(part, number_format), Linear(tokens=1024, inputs=2048, outputs=3072).sizes(part)
    with ResultsAlone(), LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        for _ in range(20):
            work()
    assert live.peak <= probe.needed_bytes(at) <= 2 * live.peak + 64 * 2**20


def test_operands_of_a_small_matmul_change_from_run_to_run() -> None:
    work = _probe("input_gradient").prepare((16.0, 16.0, 16.0), SteadyMachine())
    first, second = work(), work()
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scales", ["tensor", "row"])
@pytest.mark.parametrize("part", _PARTS)
def test_fp8_multiplies_what_lies_along_the_inner_size(part: MatmulPart, scales: str) -> None:
    probe = MatmulProbe(part, "fp8", (), scales=scales)  # type: ignore[arg-type]  # parametrized
    m, k, n = at = _LINEAR.sizes(part)
    ((name, tensors),) = [each for each in kernels_of(probe.prepare(at, SteadyMachine())) if "mm" in each[0]]
    (one, one_strides, one_dtype), (other, other_strides, _), (one_scale, *_), (other_scale, *_) = tensors
    assert "scaled_mm" in name
    assert one_dtype == torch.float8_e4m3fn
    assert (one[1], other[0]) == (k, k)
    assert {one[0], other[1]} == {m, n}
    assert (one_strides[1], other_strides[0]) == (1, 1)
    assert (one_scale, other_scale) == (((one[0], 1), (1, other[1])) if scales == "row" else ((), ()))


def test_variants_of_fp8_have_names_of_their_own() -> None:
    assert MatmulProbe("forward", "fp8", ()).variant == "forward"
    assert MatmulProbe("forward", "fp8", (), scales="row").variant == "forward-rowwise"


def test_what_torch_or_the_device_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="tf32 needs a CUDA device"):
        _probe("forward", "tf32").prepare((16.0, 16.0, 16.0), SteadyMachine())
    monkeypatch.delattr(torch, "_scaled_mm")
    with pytest.raises(UnavailableError, match="has no scaled_mm"):
        _probe("forward", "fp8").prepare((16.0, 16.0, 16.0), SteadyMachine())


def test_between_stays_on_what_8_bit_tensor_cores_take() -> None:
    assert _probe("forward").between((256.0, 256.0, 1024.0), (1024.0, 256.0, 1024.0)) == (512.0, 256.0, 1024.0)
    middle = _probe("forward").between((256.0, 100.0, 1000.0), (1000.0, 300.0, 7000.0))
    assert middle is not None
    assert all(size % 16 == 0 for size in middle)
