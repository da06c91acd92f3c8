"""What an estimate's interval rests on: the class of the run, or a profile's own errors."""

import math

import pytest

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel.intervals import (
    LEVELS,
    RUN_CLASSES,
    SAFE,
    RunClass,
    class_factors,
    fits_probability,
    run_class,
    safe_reserve,
    step_intervals,
)
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster

LLAMA = load_model("llama-3.1-8b")


def job(**changes: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"seq_len": 8192, "global_batch": 64} | changes)


@pytest.mark.parametrize(
    ("model", "cluster", "changes", "expected"),
    [
        ("llama-3.1-8b", "h100-sxm:64", {}, "dense"),
        ("llama-3.1-8b", "a100-sxm-80gb:8", {}, "dense"),
        ("llama-3.1-8b", "h100-sxm:64", {"precision": {"linear": "fp8"}}, "low precision"),
        ("mixtral-8x7b", "h100-sxm:64", {}, "experts"),
        ("mixtral-8x7b", "h100-sxm:64", {"precision": {"linear": "fp8"}}, "experts"),
        ("llama-3.1-8b", "gb200:72", {}, "other device"),
        ("llama-3.1-8b", "h100-sxm:64", {"stack": "nanotron"}, "unsettled"),
        ("llama-3.1-8b", "v100-sxm-32gb:64", {"precision": {"compute": "fp16"}}, "unsettled"),
    ],
)
def test_the_class_is_what_is_least_sure(
    model: str, cluster: str, changes: dict[str, object], expected: RunClass
) -> None:
    assert run_class(load_model(model), load_cluster(cluster).node.device, job(**changes)) == expected


def test_a_cpu_without_bf16_is_not_an_old_gpu() -> None:
    cpu = round_cluster(kind="cpu").node.device.model_copy(update={"peak_flops_per_s": {"fp32": 1e12}})
    assert run_class(LLAMA, cpu, job(precision=Precision(compute="fp32"))) == "other device"


@pytest.mark.parametrize("name", RUN_CLASSES)
def test_the_wider_interval_holds_the_narrower_and_that_the_prediction(name: RunClass) -> None:
    found = class_factors()[name]
    assert 0 < found.at_95[0] <= found.at_80[0] <= 1 <= found.at_80[1] <= found.at_95[1]
    assert found.documents > 1


def test_an_interval_without_a_profile_is_that_of_the_class() -> None:
    found = step_intervals(10.0, LLAMA, job(), RoundTimes())
    factors = class_factors()["other device"]
    assert [interval.level for interval in found] == list(LEVELS)
    for interval, (low, high) in zip(found, (factors.at_80, factors.at_95), strict=True):
        assert (interval.low, interval.high) == pytest.approx((10 * low, 10 * high))


def test_behind_a_profile_the_interval_is_the_profiles_own() -> None:
    """1.2816 standard deviations of 5% each way hold 80%."""
    narrow, _ = step_intervals(10.0, LLAMA, job(), RoundTimes(error_deviation=0.05))
    assert narrow.high == pytest.approx(10 * math.exp(1.2816 * 0.05), rel=1e-4)
    assert narrow.low == pytest.approx(10 * math.exp(-1.2816 * 0.05), rel=1e-4)


def test_a_peak_as_large_as_the_memory_fits_as_often_as_not_but_for_the_mean_error() -> None:
    at, far_below, above = (fits_probability(peak, 80e9) for peak in (80e9, 40e9, 120e9))
    assert above < at < far_below
    assert 0.2 < at < 0.8
    assert far_below > 0.95


def test_the_reserve_is_what_makes_a_full_plan_fit_with_the_probability() -> None:
    assert fits_probability(80e9 * (1 - safe_reserve()), 80e9) == pytest.approx(SAFE, abs=0.005)
    least = fits_probability(80e9 * (1 - CALIBRATED.memory_reserve), 80e9)
    assert least == pytest.approx(0.77, abs=0.01)  # as constants.toml says
