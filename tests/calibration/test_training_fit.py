"""The fit finds constants again that made the runs, robustly, and never looks at what is left out."""

import numpy as np
import pytest

from shardwright.calibration.known_constants import KNOWN
from shardwright.calibration.training_fit import (
    Run,
    TrainingFit,
    document,
    fit_training,
    intervals,
    left_out_errors,
    left_out_fits,
    runs_of,
)
from shardwright.validation.scores.validate import predict_rows
from tests.calibration.made_up_runs import CHANGED, TRUE, made_up_run, made_up_runs, relabelled
from tests.validation.made_up_rows import row

RUNS = made_up_runs()
A100, B200 = "a100-sxm-80gb", "b200-sxm"


def framework(run: Run) -> str:
    return run.measured.framework


@pytest.fixture(scope="module")
def whole() -> TrainingFit:
    return fit_training(RUNS)


class TestFindsAgain:
    @pytest.mark.parametrize("name", CHANGED)
    def test_what_made_the_runs(self, whole: TrainingFit, name: str) -> None:
        """More than half of the way from what was known before: thirteen runs against the priors."""
        assert abs(np.log(whole.values[name] / TRUE[name])) < 0.5 * abs(np.log(KNOWN[name].value / TRUE[name]))

    def test_and_predicts_them(self, whole: TrainingFit) -> None:
        before = TrainingFit(np.log([known.value for known in KNOWN.values()]))
        assert np.abs(before.errors(RUNS)).max() > 0.2
        assert np.abs(whole.errors(RUNS)).max() < 0.05

    def test_what_no_run_tells_stays_as_it_was_known(self, whole: TrainingFit) -> None:
        """None has the first fused attention."""
        assert whole.values["flash_1_fraction"] == pytest.approx(KNOWN["flash_1_fraction"].value)


def test_an_error_is_predicted_over_measured_less_one() -> None:
    true = TrainingFit(np.log(list(TRUE.values())))
    assert true.errors(RUNS) == pytest.approx(np.zeros(len(RUNS)), abs=1e-9)
    twice = [run._replace(seconds=2 * run.seconds) for run in RUNS]
    assert true.errors(twice) == pytest.approx(np.full(len(RUNS), -0.5))


def test_a_lone_outlier_moves_little(whole: TrainingFit) -> None:
    """One run of thirteen that took three times as long."""
    spoiled = fit_training([RUNS[0]._replace(seconds=3 * RUNS[0].seconds), *RUNS[1:]])
    assert spoiled.errors(RUNS[1:]) == pytest.approx(whole.errors(RUNS[1:]), abs=0.03)


def test_a_document_counts_with_the_root_of_its_rows(whole: TrainingFit) -> None:
    """The same run sixteen times weighs as much as four: the fit follows it further than one, less than sixteen documents."""
    odd = made_up_run(f"{A100}:8", 4096)
    slow = relabelled(odd, source="owner/one README.md table 1")._replace(seconds=1.1 * odd.seconds)
    apart = [relabelled(slow, source=f"owner/number{index} README.md") for index in range(16)]
    followed = [fit_training([*RUNS, *more]).values["matmul_fraction"] for more in ([slow], [slow] * 16, apart)]
    assert whole.values["matmul_fraction"] > followed[0] > followed[1] > followed[2]


class TestLeftOut:
    fits = left_out_fits(RUNS, framework)

    def test_a_group_has_no_influence_on_its_own_fit(self) -> None:
        changed = [run._replace(seconds=1.5 * run.seconds) if framework(run) == B200 else run for run in RUNS]
        found = left_out_fits(changed, framework)
        assert found[B200].logs.tolist() == self.fits[B200].logs.tolist()
        assert found[A100].logs.tolist() != self.fits[A100].logs.tolist()

    def test_its_errors_are_those_of_that_fit(self) -> None:
        alone = [self.fits[framework(run)].errors([run])[0] for run in RUNS]
        assert left_out_errors(RUNS, self.fits, framework).tolist() == alone
        assert np.abs(alone).max() > 0.02  # fitted to one device, the other's rate is as known before

    def test_what_only_tests_changes_no_fit(self, whole: TrainingFit) -> None:
        only_tests = relabelled(made_up_run(f"{A100}:8", 2048), framework="other")._replace(seconds=1.0, fitted=False)
        found = left_out_fits([*RUNS, only_tests], framework)
        assert found["other"].logs.tolist() == whole.logs.tolist()
        for name, fit in self.fits.items():
            assert found[name].logs.tolist() == fit.logs.tolist()


class TestIntervals:
    known = ("nvlink_fraction", "step_noise")

    def fit(self, *logs: float) -> TrainingFit:
        return TrainingFit(np.array(logs), self.known)

    def test_the_jackknife_of_three_groups(self) -> None:
        """Moves of -0.1, 0 and 0.1: a standard deviation of root(2/3 x 0.02)."""
        left_out = {name: self.fit(-1 + move, -2) for name, move in (("a", -0.1), ("b", 0.0), ("c", 0.1))}
        found = intervals(self.fit(-1.001, -2), left_out)
        reach = 1.2816 * (2 / 3 * 0.02) ** 0.5
        assert found["nvlink_fraction"] == pytest.approx((np.exp(-1.001 - reach), np.exp(-1.001 + reach)))
        assert found["step_noise"] == pytest.approx((np.exp(-2), np.exp(-2)))

    def test_groups_that_only_test_do_not_count(self) -> None:
        whole = self.fit(-1, -2)
        moved = {"a": self.fit(-1.1, -2), "b": self.fit(-0.8, -2)}
        assert intervals(whole, moved | {"only tests": whole}) == intervals(whole, moved)


@pytest.mark.parametrize(
    ("changes", "core", "fitted"),
    [
        ({}, True, True),
        ({"framework": "nanotron v0.5"}, False, False),
        ({"precision": "fp8", "gpu": "H100-SXM-80GB"}, True, False),
        ({"cp": 2, "dp": 32}, True, False),
    ],
)
def test_only_dense_rows_of_the_core_in_the_compute_format_are_fitted(
    changes: dict[str, object], core: bool, fitted: bool
) -> None:
    timed = {"metric_name": "s_per_iter", "metric_unit": "s/iter", "metric_value": 3.0}
    (run,) = runs_of(list(predict_rows((row(**timed | changes),))))
    assert (run.measured.core, run.fitted) == (core, fitted)


def test_tables_of_a_repository_are_one_document_and_a_paper_is_its_own() -> None:
    sources = ("o/r docs/a.md [Large]", "o/r docs/b.md", "arXiv 2104.04473 Table 2", "arXiv 2205.05198 Table 5")
    assert [document(relabelled(RUNS[0], source=source)) for source in sources] == [
        "o/r",
        "o/r",
        "arXiv 2104.04473",
        "arXiv 2205.05198",
    ]
