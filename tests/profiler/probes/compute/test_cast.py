"""Casts into 8 and 4 bits: what they compute, and what is said where torch lacks a type."""

from typing import Any

import pytest
import torch

from shardwright.profiler.probes.compute import cast as cast_probe
from shardwright.profiler.probes.compute.cast import (
    CAST_FORMATS,
    CastProbe,
    by_mx_blocks,
    by_nv_blocks,
    by_rows,
    by_tensor,
)
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.number_format import random_tensor
from shardwright.profiler.timing.probe import UnavailableError
from shardwright.specs.training import LinearFormat
from tests.profiler.steady_machine import SteadyMachine

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
EPSILON_FP8 = 2.0**-4  # half a step of a three-bit mantissa


def source() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(48, 64, dtype=torch.bfloat16)


def test_one_scale_makes_the_largest_number_the_largest_of_the_format() -> None:
    numbers, scale = by_tensor(source())
    assert numbers.dtype == torch.float8_e4m3fn
    assert numbers.float().abs().max() == 448
    assert scale == source().abs().max().float() / 448
    torch.testing.assert_close(numbers.float() * scale, source().float(), rtol=EPSILON_FP8, atol=float(scale) / 512)


def test_each_row_has_its_own_scale() -> None:
    numbers, scale = by_rows(source())
    assert scale.shape == (48, 1)
    assert (numbers.float().abs().amax(1) == 448).all()


def test_a_block_of_32_shares_a_power_of_two() -> None:
    numbers, scale = by_mx_blocks(source())
    assert (numbers.shape, scale.shape, scale.dtype) == ((48, 64), (48, 2), torch.float8_e8m0fnu)
    blocks = source().float().view(48, 2, 32)
    assert torch.equal(scale.float(), torch.exp2(torch.floor(torch.log2(blocks.abs().amax(-1))) - 8))
    there = (numbers.float().view(48, 2, 32) * scale.float()[..., None]).view(48, 64)
    # numbers above 448 times the scale become 448 times it
    torch.testing.assert_close(there, source().float(), rtol=0.13, atol=1e-2)


def test_a_block_of_16_has_the_nearest_numbers_of_four_bits() -> None:
    packed, scales, whole = by_nv_blocks(source())
    assert (packed.shape, scales.shape, scales.dtype) == ((48, 32), (48, 4), torch.float8_e4m3fn)
    codes = torch.stack([packed & 15, packed >> 4], -1).view(48, 4, 16).long()
    wanted = source().float().view(48, 4, 16) / (scales.float() * whole)[..., None]
    nearest = (wanted[..., None] - FP4).abs().min(-1).values
    torch.testing.assert_close((FP4[codes] - wanted).abs(), nearest)


def test_a_tensor_of_zeros_has_no_trouble() -> None:
    zeros = torch.zeros(16, 64, dtype=torch.bfloat16)
    for each in (by_tensor, by_rows, by_mx_blocks, by_nv_blocks):
        assert not each(zeros)[0].view(torch.uint8).any()


@pytest.mark.parametrize("low", CAST_FORMATS)
def test_memory_is_asked_for(low: LinearFormat) -> None:
    probe, at = CastProbe(low, False, "bf16", ()), (1024.0, 1024.0)
    with LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        for _ in range(20):
            work()
    assert live.peak <= probe.needed_bytes(at) <= 2 * live.peak + 64 * 2**20


def test_compiled_code_casts_as_eager_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []

    def spy(*arguments: Any) -> torch.Tensor:
        made.append(random_tensor(*arguments))
        return made[-1]

    monkeypatch.setattr(cast_probe, "random_tensor", spy)
    work = CastProbe("mxfp8", True, "bf16", ()).prepare((32.0, 64.0), SteadyMachine())
    results = [work() for _ in range(len(made))]
    expected = {bytes(by_mx_blocks(each)[0].view(torch.uint8).numpy()) for each in made}
    assert {bytes(each[0].view(torch.uint8).numpy()) for each in results} == expected  # type: ignore[index]


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: torch.Tensor) -> Any:
        raise RuntimeError("no compiler\nmore lines of no use")

    monkeypatch.setattr(cast_probe, "_compiled", lambda low: fail)
    with pytest.raises(UnavailableError, match=r"^cast to fp8-compiled from bf16: no compiler$"):
        CastProbe("fp8", True, "bf16", ()).prepare((32.0, 64.0), SteadyMachine())


@pytest.mark.parametrize(
    ("low", "name"), [("fp8", "float8_e4m3fn"), ("mxfp8", "float8_e8m0fnu"), ("nvfp4", "float4_e2m1fn_x2")]
)
def test_a_torch_without_the_type_says_so(monkeypatch: pytest.MonkeyPatch, low: LinearFormat, name: str) -> None:
    monkeypatch.delattr(torch, name)
    with pytest.raises(UnavailableError, match=f"has no {name} for {low}$"):
        CastProbe(low, False, "bf16", ()).prepare((32.0, 64.0), SteadyMachine())


def test_rows_are_of_whole_blocks() -> None:
    assert CastProbe("mxfp8", False, "bf16", ()).between((64.0, 64.0), (64.0, 256.0)) == (64.0, 128.0)
    assert CastProbe("mxfp8", False, "bf16", ()).between((64.0, 64.0), (64.0, 96.0)) is None
