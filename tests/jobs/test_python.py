"""`import shardwright` answers as the commands do."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import shardwright as sw
from shardwright.cli.compare import compare as compare_command
from shardwright.cli.plan import plan as plan_command
from shardwright.jobs import PLAN_DEFAULTS, TRAINING_DEFAULTS
from tests.cli.command import Command

MODEL, CLUSTER = "llama-3.2-1b", "h100-sxm:8"
BATCH: dict[str, Any] = {"seq_len": 1024, "global_batch": 16}


@pytest.fixture(scope="module")
def planned() -> sw.Planned:
    return sw.plan(MODEL, CLUSTER, **BATCH, tp="1..4", forbid=["cp"])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize(("command", "defaults"), [(plan_command, PLAN_DEFAULTS), (compare_command, TRAINING_DEFAULTS)])
def test_what_is_left_out_is_what_the_command_takes(
    command: Callable[..., object], defaults: Mapping[str, object]
) -> None:
    stated = {name: one.default for name, one in inspect.signature(command).parameters.items() if name in defaults}
    assert stated == {name: defaults[name] for name in stated}
    assert set(defaults) - set(stated) <= {"stages"}, "no option of the command line"


def test_a_plan_is_the_commands(planned: sw.Planned, command: Command, tmp_path: Path) -> None:
    options = ("--tp", "1..4", "--forbid", "cp")
    printed = command(
        "plan", MODEL, "--cluster", CLUSTER, "--seq-len", "1024", "--global-batch", "16", *options,
        "--out", tmp_path / "plan.json",
    )  # fmt: skip
    assert printed.out.startswith(planned.summary())
    assert planned.save(tmp_path / "mine.json").read_text() == (tmp_path / "plan.json").read_text()


def test_a_plan_is_estimated_and_simulated_from_anywhere(planned: sw.Planned, tmp_path: Path) -> None:
    path = planned.save(tmp_path / "plan.json")
    for one in (planned, planned.plan_file, path, str(path)):
        assert sw.estimate(one) == planned.estimate
        assert sw.simulate(one).step_seconds == pytest.approx(planned.estimate.step_seconds, rel=0.01)


def test_a_plan_changed_by_hand_has_other_costs(planned: sw.Planned) -> None:
    written = planned.plan_file
    cluster = sw.load_cluster("a100-sxm-80gb:8")
    assert sw.estimate(written.model_copy(update={"cluster": cluster})) != written.estimate


@pytest.mark.parametrize("kind", ["planned", "file"])
def test_a_report(planned: sw.Planned, kind: str, tmp_path: Path) -> None:
    one = planned if kind == "planned" else planned.save(tmp_path / "plan.json")
    page = sw.report(one, tmp_path / "plan.html").read_text()
    assert "llama-3.2-1b on h100-sxm:8" in page
    assert "Why this plan" in page
    assert "Rivals" in page


def test_ways_side_by_side(planned: sw.Planned) -> None:
    found = sw.compare(MODEL, CLUSTER, **BATCH, strategies=["ddp", "best"], plans={"mine": planned.plan})
    assert [row.name for row in found.rows] == ["ddp", "mine", "best"]
    assert "best" in found._repr_html_()
    assert repr(found) == str(found)
    assert "3 ways, fastest" in repr(found)


def test_what_is_shown_is_short(planned: sw.Planned) -> None:
    shown = (
        planned,
        planned.estimate,
        planned.model,
        planned.cluster,
        planned.plan_file,
        planned.result,
        planned.simulate(),
    )
    for one in shown:
        assert repr(one).startswith(f"<{type(one).__name__} ")
        assert len(repr(one)) < 200
    assert planned.summary().splitlines()[0] in planned._repr_html_()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tpp": 3}, "'tpp' is no option of a job; allowed: .* Did you mean 'tp'"),
        ({"tp": 3}, "tp 3"),
        ({"time_limit": 0}, "--time-limit is 0"),
        ({"memory_reserve": 2.0}, "--memory-reserve is 2"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(sw.SpecError, match=words) as caught:
        sw.plan(MODEL, CLUSTER, **BATCH, **options)
    assert "\n" not in str(caught.value)


def test_reserves_of_a_cluster_that_is_read_already() -> None:
    with pytest.raises(sw.SpecError, match="memory_reserve"):
        sw.plan(MODEL, sw.load_cluster(CLUSTER), **BATCH, memory_reserve=0.1)


def test_the_best_without_an_axis() -> None:
    job = {"seq_len": 4096, "global_batch": 64}
    found = sw.compare("llama-3.1-70b", "h100-sxm:32", **job, strategies=["best", "best-without-pp", "fsdp"])  # type: ignore[arg-type]
    rows = {row.name: row for row in found.rows}
    assert rows["best"].plan is not None
    assert rows["best-without-pp"].plan is not None
    assert rows["best-without-pp"].plan.mesh.pp == 1
    assert list(rows) == ["fsdp", "best", "best-without-pp"]
    with pytest.raises(sw.SpecError, match="best-without-cp"):
        sw.compare(MODEL, CLUSTER, **BATCH, strategies=["bestt"])
    with pytest.raises(sw.SpecError, match="no axis, choice or value"):
        sw.compare(MODEL, CLUSTER, **BATCH, strategies=["best-without-tpp"])


def test_other_plans_say_what_their_training_has_otherwise() -> None:
    """As given, FSDP over 8 H100 repeats 14 layers in full, and the fastest plan nothing."""
    found = sw.plan("llama-3.1-8b", "h100-sxm:8", seq_len=8192, global_batch=128)
    assert found.plan.mesh.dp_shard == 8
    assert found.training.loss_chunks > 1
    fastest = next(other for other in found.others if "fastest" in other.names)
    assert fastest.trained == ("the loss in one piece",)
    assert "; the loss in one piece: " in found.summary().replace("\n          ", " ")
    stated = sw.plan(
        "llama-3.1-8b", "h100-sxm:8", seq_len=8192, global_batch=128, loss_chunks=1, recompute_modules="core_attn"
    )
    assert stated.training.loss_chunks == 1
    assert stated.plan.mesh.cp == 2
