"""The command: what it refuses, in which order it runs, and one real run end to end."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shardwright.base.errors import RunFailedError, SpecError
from shardwright.benchmarks import own_runs
from shardwright.benchmarks.own.alone import run_alone
from shardwright.benchmarks.own.configuration import TWELVE, OwnConfiguration
from shardwright.catalog.cluster_file import load_cluster
from shardwright.executor.options import RunOptions
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.profile import MachineFingerprint, Profile, write_profile
from shardwright.specs.results.measurement import Measurement
from tests.benchmarks.own.test_run import FINGERPRINT

CLUSTER = load_cluster("h100-sxm:1")
TINY = OwnConfiguration(hidden=32, width=64, layers=1, heads=2, kv_heads=1, length=16, micro_batch=1)


def measured(seconds: float, steps: int) -> Measurement:
    records = [
        {"step": number, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 1e-3, "seconds": seconds}
        for number in range(1, steps + 1)
    ]
    data = {
        "ranks": 1,
        "warmup_steps": own_runs.WARMUP_STEPS,
        "step_seconds": seconds,
        "step_seconds_low": seconds,
        "step_seconds_high": seconds,
        "part_seconds": {"forward_backward": seconds, "optimizer": 0.0, "data": 0.0},
        "tokens_per_s": 1.0,
        "mfu": None,
        "peak_memory_bytes": [1e9],
        "baseline_memory_bytes": [4e8],
        "memory_kind": "resident",
        "steps": records,
        "fingerprint": FINGERPRINT.model_dump(),
    }
    return Measurement.parse(data, source="test")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Names and steps of the runs, in order; nothing is trained."""
    calls: list[tuple[str, int]] = []

    def run(plan_file: object, options: RunOptions) -> Measurement:
        calls.append((str(getattr(plan_file, "model_name", "")), options.steps))
        return measured(float(len(calls)), options.steps)

    monkeypatch.setattr(own_runs, "run_alone", run)
    monkeypatch.setattr(own_runs, "resolve_cluster", lambda reference: CLUSTER)
    return calls


def test_all_run_once_before_any_runs_again(ran: list[tuple[str, int]]) -> None:
    told: list[str] = []
    runs = own_runs.compare_own_runs(TWELVE[:2], CLUSTER, steps=4, passes=2, tell=told.append)
    first, second = TWELVE[0].name, TWELVE[1].name
    assert ran == [(first, 6), (second, 6), (first, 6), (second, 6)]
    assert [run.name for run in runs] == [first, second]
    assert runs[0].timed_seconds == (1.0,) * 4 + (3.0,) * 4
    assert len(told) == 4


def test_prints_json_with_targets_and_writes_the_csv(
    ran: list[tuple[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs.csv"
    code = own_runs.main(["--only", "1", "2", "13", "--passes", "1", "--steps", "1", "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [run["counts"] for run in found["runs"]] == [True, True, False]
    assert len(found["targets"]) == 4
    assert all(isinstance(target["met"], bool) for target in found["targets"])
    assert len(out.read_text().splitlines()) == 4


def test_prints_tables_and_a_verdict_a_target(ran: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    assert own_runs.main(["--only", "1", "2", "--passes", "2", "--parts"]) == 0
    printed = capsys.readouterr().out
    assert TWELVE[0].name in printed
    assert "Parts of a step" in printed
    assert "Predicted memory" in printed
    assert "Passes more than 10.0% apart" in printed
    assert printed.count("PASS") + printed.count("FAIL") == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "16"], "--only 16: there are 15 configurations"),
        (["--only", "0"], "--only 0"),
        (["--profile", "missing.json"], "missing.json"),
    ],
)
def test_mistakes_are_one_line(
    ran: list[tuple[str, int]], arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own_runs.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert ran == []


def test_a_run_that_fails_is_told_and_ends_with_1(
    ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(plan_file: object, options: RunOptions) -> Measurement:
        raise RunFailedError("no luck")

    monkeypatch.setattr(own_runs, "run_alone", fail)
    assert own_runs.main(["--only", "1"]) == 1
    assert capsys.readouterr().err == "error: no luck\n"


def profile(ranks: int) -> Profile:
    machine = MachineFingerprint(
        device="a CPU",
        kind="cpu",
        device_memory_bytes=1e10,
        torch="2.13",
        python="3.11",
        host="here",
        cores=2,
        threads=2,
        ranks=ranks,
        date="2026-01-02",
    )
    return Profile(fingerprint=machine)


def test_a_profile_is_what_predictions_rest_on(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", profile(ranks=1))
    found: ClusterSpec = own_runs.with_profile(CLUSTER, tmp_path / "p.json")
    assert found.groups[0].profile == profile(ranks=1)
    assert found.groups[0].device == CLUSTER.groups[0].device


def test_a_profile_of_several_ranks_is_refused(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", profile(ranks=2))
    with pytest.raises(SpecError, match="2 ranks at once and these runs have one"):
        own_runs.with_profile(CLUSTER, tmp_path / "p.json")


def test_one_rank_trains_in_a_process_of_its_own(tmp_path: Path) -> None:
    options = RunOptions(out=tmp_path / "run", steps=3, timing_warmup_steps=1, checkpoint_every=None)
    found = run_alone(TINY.plan_file(CLUSTER), options)
    assert [step.step for step in found.steps] == [1, 2, 3]
    assert found.ranks == 1
    assert found.memory_kind == "resident"
    (peak_bytes,), (baseline_bytes,) = found.peak_memory_bytes, found.baseline_memory_bytes or (0,)
    assert peak_bytes >= baseline_bytes > 1e8


def test_why_a_worker_failed_is_told(tmp_path: Path) -> None:
    options = RunOptions(out=tmp_path / "run", steps=2, learning_rate=1e30, warmup_steps=0, checkpoint_every=None)
    with pytest.raises(RunFailedError, match=r"the run failed \(exit 1\).*diverged"):
        run_alone(TINY.plan_file(CLUSTER), options.model_copy(update={"steps": 6, "clip_norm": None}))
