import math
from collections import Counter
from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shardwright.costmodel.op_times.protocol import MatmulPart, Operator
from shardwright.profiler.probes.compute.defaults import default_figures, default_probes
from shardwright.profiler.session.agenda import DEFAULT_WEIGHTS, Agenda
from shardwright.profiler.sizes.models import Usage
from shardwright.profiler.timing.probe import Probe, Sizes
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.profile import Format, Point, Series
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_experts, small_model
from tests.profiler.gpu_stand_in import GpuStandIn
from tests.profiler.steady_machine import SteadyMachine

_FORMATS: tuple[Format, ...] = get_args(Format)
_ONE_PASS: set[Operator] = {"adamw", "sgd", "clip"}


def _usage(model: ModelSpec) -> Usage:
    return Usage(model, TrainingSpec(seq_len=128, global_batch=8))


def _key(probe: Probe) -> tuple[str, str, Format | None]:
    return probe.operation, probe.variant, probe.format


def test_no_series_is_measured_twice_and_each_has_sizes() -> None:
    for usage in (None, _usage(small_model()), _usage(small_experts())):
        probes = default_probes(SteadyMachine(), _FORMATS, usage)
        assert max(Counter(map(_key, probes)).values()) == 1
        for probe in probes:
            sizes = probe.first_sizes()
            assert len(sizes) > 1
            assert len(set(sizes)) == len(sizes)
            Series(
                operation=probe.operation,
                variant=probe.variant,
                format=probe.format,
                axes=probe.axes,
                points=tuple(Point(at=at, seconds=1, low_seconds=1, high_seconds=1, repeats=1) for at in sizes),
            )


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_all_that_a_training_step_computes_is_there(number_format: Format) -> None:
    keys = {_key(probe) for probe in default_probes(SteadyMachine(), [number_format])}
    parts: tuple[MatmulPart, ...] = get_args(MatmulPart)
    operators: tuple[Operator, ...] = get_args(Operator)
    both = ("forward", "backward")
    assert keys >= {("matmul", part, number_format) for part in parts}
    assert keys >= {("matmul", f"grouped_{part}", number_format) for part in parts}
    assert keys >= {("matmul", f"looped_{part}", number_format) for part in parts}
    assert keys >= {("attention", direction, number_format) for direction in both}
    assert keys >= {
        (operator, direction, number_format)
        for operator in operators
        for direction in both
        if operator not in _ONE_PASS and (operator, direction) != ("column_sum", "forward")
    }
    assert keys >= {("adamw", "fused", "fp32"), ("sgd", "foreach", "fp32"), ("clip", "", "fp32")}
    assert ("host_adamw", "fused", "fp32") in keys


def test_matmuls_come_first_and_what_the_model_uses_before_the_rest() -> None:
    probes = default_probes(SteadyMachine(), ["bf16"], _usage(small_model()))
    assert [probe.operation for probe in probes[:5]] == ["matmul"] * 3 + ["attention"] * 2
    used = [probe.operation for probe in probes[5:]].index("eager_rmsnorm")
    unused = [probe.operation for probe in probes[5:]].index("layernorm")
    assert used < unused
    forward = probes[0]
    assert set(forward.first_sizes()[:5]) == {at for at in forward.first_sizes() if 1000.0 in at or at[0] == 128.0}


def test_a_dense_model_needs_no_experts_and_one_with_experts_its_own() -> None:
    dense = default_probes(SteadyMachine(), ["bf16"], _usage(small_model()))
    assert all("grouped" not in probe.variant and "looped" not in probe.variant for probe in dense)
    grouped = next(
        probe
        for probe in default_probes(SteadyMachine(), ["bf16"], _usage(small_experts()))
        if probe.variant == "grouped_forward"
    )
    # two of eight experts a token: each expert has 32 of the 128 tokens
    assert set(grouped.first_sizes()[:2]) == {(32.0, 64.0, 128.0, 8.0), (32.0, 64.0, 64.0, 8.0)}


def test_eight_bits_and_tf32_are_for_matmuls() -> None:
    assert {
        probe.operation for probe in default_probes(SteadyMachine(), ["fp8", "tf32"]) if probe.format != "fp32"
    } == {
        "matmul",
        "adamw",
        "cast",
        "clip",
    }


def test_a_gpu_measures_what_decides_modern_training() -> None:
    """Casts, experts in a loop and in one kernel, attention by kernel, latent heads; a CPU leaves out what is slow there."""
    probes = default_probes(GpuStandIn({}), ["bf16", "tf32", "fp8"])
    keys = {_key(probe): probe for probe in probes}
    casts = {f"{low}{how}" for low in ("fp8", "fp8-rowwise", "mxfp8", "nvfp4") for how in ("", "-compiled")}
    assert {variant for operation, variant, _ in keys if operation == "cast"} == casts
    assert {format for _, variant, format in keys if variant == "looped_input_gradient"} == {"bf16", "tf32", "fp8"}
    assert {format for _, variant, format in keys if variant == "grouped_input_gradient"} == {"bf16"}
    attention = {variant for operation, variant, _ in keys if operation == "attention"}
    assert {"forward-mla", "backward-mla", "forward-cudnn-mla", "backward-cudnn", "forward-flash"} <= attention
    lengths = {at[3] for at in keys["attention", "forward-cudnn", "bf16"].first_sizes()}
    heads = {at[4] for at in keys["attention", "forward-cudnn", "bf16"].first_sizes()}
    assert {1024.0, 65536.0} <= lengths
    assert heads == {64.0, 96.0, 128.0, 256.0}
    here = default_probes(SteadyMachine(), ["fp32", "bf16", "fp8"])
    assert not [probe for probe in here if "mla" in probe.variant]
    assert not [probe for probe in here if "looped" in probe.variant and probe.format == "fp8"]


def test_the_kernels_that_plans_read_have_more_sizes() -> None:
    probes = default_probes(GpuStandIn({}), ["bf16"])
    agenda = Agenda(probes, weights=DEFAULT_WEIGHTS, expected_error=lambda series: [], tolerance=0.03)
    counts = Counter(
        probes[item.probe].variant for item in agenda.telling if probes[item.probe].operation == "attention"
    )
    assert counts["forward"] > counts["forward-flash"] == counts["forward-cudnn"] == 12
    assert counts["forward-mla"] == 6
    assert counts["forward-math"] == counts["forward-efficient"] == 3


def test_sizes_between_the_first_are_valid_ones() -> None:
    """Of every series the smallest two that have something between them are measured there, whatever the probe."""
    for probe in default_probes(SteadyMachine(), ["fp32"]):
        one, other = sorted(probe.first_sizes(), key=lambda at: torch.tensor(at).prod().item())[:2]
        middle = probe.between(one, other)
        if middle is not None:
            assert all(min(ends) <= size <= max(ends) for *ends, size in zip(one, other, middle, strict=True))
            assert probe.needed_bytes(middle) > 0


@pytest.mark.parametrize("at", [(16.0, 16.0, 16.0), (64.0, 128.0, 256.0)])
def test_a_matmul_does_the_flops_of_its_size(at: Sizes) -> None:
    work = default_probes(SteadyMachine(), ["fp32"])[0].prepare(at, SteadyMachine())
    with FlopCounterMode(display=False) as counter:
        work()
    assert counter.get_total_flops() == 2 * math.prod(at)


def test_figures_have_names_of_their_own() -> None:
    names = [probe.name for probe in default_figures()]
    assert len(set(names)) == len(names) == 3
