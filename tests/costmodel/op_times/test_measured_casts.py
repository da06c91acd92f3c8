"""Casts of a profile: an estimate changes by the traffic over the stated rate."""

import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.op_times.measured import ProfileTimes
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.profile import Curve, Figure, Format, Profile, Series
from shardwright.specs.training import LinearFormat, Precision, TrainingSpec
from tests.costmodel.fakes import round_cluster, small_model
from tests.costmodel.op_times.made_up_profile import made_up_profile, series

SEQ = 1024


def exact(variant: str, elements_per_s: float, format: Format = "bf16") -> Series:
    """A cast at a steady rate, with the curve that says so."""
    sizes = [(rows, 1024.0) for rows in (128.0, 1024.0, 8192.0)]
    points = series(
        "cast", variant, format, ("rows", "width"), sizes, lambda rows, width: rows * width / elements_per_s
    )
    steady = {"start_seconds": 0.0, "elements_per_s": elements_per_s, "cache_gain": 1.0, "cached_elements": 1e6}
    curve = Curve(form="rows", parameters={**steady, "reach": 1.0, "noise": 0.1}, residual_median=0, residual_p90=0)
    return points.model_copy(update={"curve": curve})


def training(low: LinearFormat = "fp8", stack: str = "shardwright") -> TrainingSpec:
    return TrainingSpec(seq_len=SEQ, global_batch=1, stack=stack, precision=Precision(linear=low))


def cluster(profile: Profile) -> ClusterSpec:
    """One device that multiplies 8-bit and 4-bit matrices too, whose host launches at once."""
    one = round_cluster(nodes=1, devices_per_node=1)
    peaks = {**one.node.device.peak_flops_per_s, "fp8": 200e12, "fp4": 400e12}
    device = one.node.device.model_copy(update={"peak_flops_per_s": peaks})
    at_once = {"host_seconds_per_kernel": Figure(value=1e-15, unit="s", meaning="launch")}
    measured = profile.model_copy(update={"figures": at_once})
    group = one.groups[0].model_copy(update={"device": device, "profile": measured})
    return one.model_copy(update={"groups": (group,)})


def holding(*casts: Series) -> Profile:
    profile = made_up_profile()
    return profile.model_copy(update={"series": (*profile.series, *casts)})


def times(low: LinearFormat, *casts: Series, stack: str = "shardwright") -> ProfileTimes:
    found = op_times(cluster(holding(*casts)), training(low, stack))
    assert isinstance(found, ProfileTimes)
    return found


@pytest.mark.parametrize(
    ("low", "series", "each"),
    [
        ("fp8", "fp8", 5),
        ("fp8-rowwise", "fp8-rowwise", 3),
        ("fp8-rowwise-gw-hp", "fp8-rowwise", 3),
        ("mxfp8", "mxfp8", 97 / 32),
    ],
)
def test_traffic_over_the_rate(low: LinearFormat, series: str, each: float) -> None:
    """1e9 elements/s of `each` bytes: `each` GB/s. A tensor-wise cast reads its source twice and writes a byte."""
    assert times(low, exact(series, 1e9)).cast_seconds(6e9, low) == pytest.approx(6 / each)


@pytest.mark.parametrize(("stack", "seconds"), [("shardwright", 2.0), ("torchtitan", 1.0), ("megatron-core", 1.0)])
def test_compiled_code_and_libraries_cast_in_one_kernel(stack: str, seconds: float) -> None:
    casts = exact("fp8", 1e9), exact("fp8-compiled", 2e9)
    assert times("fp8", *casts, stack=stack).cast_seconds(10e9, "fp8") == pytest.approx(seconds)


def test_eager_chains_say_nothing_of_a_compiler() -> None:
    found = times("fp8", exact("fp8", 1e9), stack="torchtitan")
    assert found.cast_seconds(1e9, "fp8") == found.memory_bound_seconds(1e9)


def test_what_was_not_measured_is_traffic() -> None:
    found = times("mxfp8", exact("fp8", 1e9))
    assert found.cast_seconds(1e9, "mxfp8") == found.memory_bound_seconds(1e9)
    bare = ProfileTimes(found.profile.model_copy(update={"series": ()}), found.catalog)
    catalog = found.catalog
    assert isinstance(catalog, CatalogTimes)
    assert bare.cast_seconds(1e9, "mxfp8") == catalog.cast_seconds(1e9, "mxfp8") == catalog.memory_bound_seconds(1e9)


def test_spared_traffic_is_that_of_memory() -> None:
    """A norm that writes fewer bits is no cast."""
    found = times("fp8", exact("fp8", 1e9))
    assert found.cast_seconds(-1e9, "fp8") == found.memory_bound_seconds(-1e9)
    assert found.cast_seconds(0.0, "fp8") == 0


def test_a_step_takes_its_traffic_over_the_rate() -> None:
    """Per layer: operands are read twice and written, 5 bytes; second layouts are transposed, 2 bytes.

    Inner sizes add up to 4 x 64 of attention, 2 x 64 of gate and up, 128 of down; columns to 64 + 32 + 32 + 64 + 2 x 128 + 64.
    """
    inputs, outputs = SEQ * (4 * 64 + 2 * 64 + 128), SEQ * (64 + 32 + 32 + 64 + 2 * 128 + 64)
    weights = 64 * (64 + 32 + 32 + 64) + 2 * 64 * 128 + 128 * 64
    layer_bytes = 5 * (inputs + weights) + 5 * outputs + 2 * (inputs + weights + outputs)
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(LayerRun(count=2),)),))

    def compute_seconds(elements_per_s: float) -> float:
        profile = holding(exact("fp8", elements_per_s))
        return estimate_plan(small_model(layers=2), cluster(profile), training(), plan).step.compute

    more = compute_seconds(1e8) - compute_seconds(2e8)
    assert more == pytest.approx(2 * layer_bytes / 5e8 - 2 * layer_bytes / 10e8)
