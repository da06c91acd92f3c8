"""Errors, spread, drift and targets of our own runs, by numbers worked out by hand."""

import numpy as np
import pytest

from shardwright.benchmarks.own.configuration import TWELVE
from shardwright.benchmarks.own.run import OwnRun, OwnSummary, Pass, drifted, interpolation_targets
from shardwright.benchmarks.own.tables import own_runs_csv, verdict
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.specs.results.estimate import Estimate, MemoryBytes, StepSeconds
from shardwright.specs.results.measurement import Fingerprint, Measurement, StepRecord
from tests.costmodel.op_times.made_up_profile import made_up_profile, point

FINGERPRINT = Fingerprint(device="a CPU", host="here", python="3.11", torch="2.13", date="2026-01-02")
_JOB = (TWELVE[0].model, load_cluster("h100-sxm:1"), TWELVE[0].training, TWELVE[0].plan)
_ANY = estimate_plan(*_JOB)


def estimate(seconds: float, memory_bytes: float) -> Estimate:
    nothing_step = dict.fromkeys((name for name, _ in _ANY.step), 0.0)
    nothing_memory = dict.fromkeys((name for name, _ in _ANY.memory[0]), 0.0)
    step = StepSeconds(**(nothing_step | {"compute": 0.75 * seconds, "optimizer": 0.25 * seconds}))
    memory = MemoryBytes(**(nothing_memory | {"activations": memory_bytes}))
    return _ANY.model_copy(update={"step": step, "memory": (memory,)})


def one_pass(*seconds: float, peak: float = 100.0, optimizer: float = 0.5) -> Pass:
    parts = {"forward_backward": 1.0, "optimizer": optimizer, "data": 0.1}
    return Pass(step_seconds=seconds, part_seconds=parts, peak_memory_bytes=peak, baseline_memory_bytes=10.0)


def run(*passes: Pass, name: str = "one", predicted: float = 1.0, memory: float = 100.0, counts: bool = True) -> OwnRun:
    return OwnRun(
        name=name, counts=counts, estimate=estimate(predicted, memory), passes=passes, fingerprint=FINGERPRINT
    )


class TestPass:
    def test_leaves_the_warm_up_out(self) -> None:
        steps = tuple(
            StepRecord(step=number, loss=1.0, gradient_norm=1.0, learning_rate=1e-3, seconds=seconds)
            for number, seconds in enumerate((9.0, 8.0, 1.0, 2.0), start=1)
        )
        measurement = Measurement(
            ranks=1,
            warmup_steps=2,
            step_seconds=1.5,
            step_seconds_low=1.0,
            step_seconds_high=2.0,
            part_seconds={"optimizer": 0.25},
            tokens_per_s=1.0,
            mfu=None,
            peak_memory_bytes=(70.0,),
            memory_kind="resident",
            baseline_memory_bytes=(30.0,),
            steps=steps,
            fingerprint=FINGERPRINT,
        )
        found = Pass.of(measurement)
        assert found.step_seconds == (1.0, 2.0)
        assert (found.peak_memory_bytes, found.baseline_memory_bytes) == (70.0, 30.0)
        assert found.part_seconds == {"optimizer": 0.25}


class TestOwnRun:
    def test_time_is_the_median_over_the_steps_of_all_passes(self) -> None:
        both = run(one_pass(1.0, 1.0, 4.0), one_pass(2.0, 3.0), predicted=1.5)
        assert both.step_seconds == 2.0
        assert both.time_error == pytest.approx(-0.25)

    def test_memory_is_the_mean_of_the_passes(self) -> None:
        assert run(one_pass(1.0, peak=80), one_pass(1.0, peak=120), memory=110).memory_error == pytest.approx(0.1)

    def test_drift_compares_the_passes_whichever_was_slower(self) -> None:
        slower, faster = one_pass(1.0, 1.2, 9.0), one_pass(1.0)
        assert run(slower, faster).drift == pytest.approx(0.2)
        assert run(faster, slower).drift == pytest.approx(0.2)
        assert [each.name for each in drifted([run(faster), run(slower, faster, name="moved")])] == ["moved"]

    def test_spread_is_from_the_tenth_to_the_ninetieth_percentile(self) -> None:
        low, high = run(one_pass(*(float(second) for second in range(1, 12)))).spread_seconds
        assert low == pytest.approx(2.0)
        assert high == pytest.approx(10.0)

    def test_parts_are_the_mean_of_the_passes(self) -> None:
        assert run(one_pass(1.0, optimizer=0.2), one_pass(1.0, optimizer=0.4)).part_seconds(
            "optimizer"
        ) == pytest.approx(0.3)


class TestSummary:
    def test_counts_only_the_runs_that_count(self) -> None:
        runs = [
            run(one_pass(1.0), name="a", predicted=1.08, memory=103),
            run(one_pass(2.0), name="b", predicted=2.4, memory=92),
            run(one_pass(3.0), name="c", predicted=3.0, memory=100),
            run(one_pass(4.0), name="d", predicted=99.0, memory=1000, counts=False),
        ]
        summary = OwnSummary.of(runs)
        assert summary is not None
        assert summary.time.median == pytest.approx(0.08)
        assert summary.time.worst == pytest.approx(0.2)
        assert summary.memory.worst == pytest.approx(0.08)
        assert summary.kendall_tau == 1.0
        assert [target.met for target in summary.targets] == [True, True, True, True]

    def test_a_wrong_order_lowers_tau_and_misses_the_target(self) -> None:
        runs = [
            run(one_pass(1.0), name="a", predicted=1.0),
            run(one_pass(1.1), name="b", predicted=1.2),
            run(one_pass(1.2), name="c", predicted=1.1),
        ]
        summary = OwnSummary.of(runs)
        assert summary is not None
        assert summary.kendall_tau == pytest.approx(1 / 3)
        assert [target.met for target in summary.targets] == [True, True, False, True]

    def test_each_target_can_be_missed(self) -> None:
        far = [run(one_pass(float(n)), name=str(n), predicted=1.3 * n, memory=115) for n in (1, 2, 3)]
        summary = OwnSummary.of(far)
        assert summary is not None
        assert [target.met for target in summary.targets] == [False, False, True, False]
        assert verdict(summary.targets[0]) == "FAIL  step time, median error: 30.0% (at most 10.0%)"
        assert verdict(summary.targets[2]) == "PASS  order of the runs, Kendall tau: 1.00 (at least 0.90)"

    def test_one_run_has_no_order(self) -> None:
        assert OwnSummary.of([run(one_pass(1.0))]) is None


def test_the_csv_holds_a_row_a_configuration_with_its_machine() -> None:
    header, row = own_runs_csv([run(one_pass(1.0, 3.0), predicted=1.0, memory=90)]).splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert found["predicted_step_seconds"] == "1.0"
    assert found["measured_step_seconds"] == "2.0"
    assert found["predicted_optimizer_seconds"] == "0.25"
    assert found["measured_optimizer_seconds"] == "0.5"
    assert (found["predicted_peak_memory_bytes"], found["measured_peak_memory_bytes"]) == ("90.0", "100.0")
    assert (found["device"], found["torch"], found["date"]) == ("a CPU", "2.13", "2026-01-02")


class TestInterpolationTargets:
    def test_of_points_that_follow_a_rule(self) -> None:
        targets = interpolation_targets(made_up_profile(), compute="bf16")
        assert [target.what.split()[3] for target in targets] == ["matmul,", "attention,"]
        assert all(target.met and target.limit == 0.05 for target in targets)

    def test_of_points_of_chance(self) -> None:
        """Each as long as a factor of two either way; both ways of attention count."""
        chance = np.random.default_rng(5)
        whole = made_up_profile()
        wild = tuple(
            each.model_copy(
                update={"points": tuple(point(p.at, p.seconds * float(np.exp(chance.normal()))) for p in each.points)}
            )
            if (each.operation, each.variant) == ("attention", "backward")
            else each
            for each in whole.series
        )
        matmul, attention = interpolation_targets(whole.model_copy(update={"series": wild}), compute="bf16")
        assert matmul.met
        assert not attention.met

    def test_none_without_a_profile_or_in_another_format(self) -> None:
        assert interpolation_targets(None) == ()
        assert interpolation_targets(made_up_profile(format="bf16"), compute="fp32") == ()
