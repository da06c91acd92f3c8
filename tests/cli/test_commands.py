"""Each command does its job and says so, in words and as JSON."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markupsafe import escape

from shardwright.base import units
from shardwright.base.numbers import GIB
from shardwright.costmodel.evaluate import simulate_plan
from shardwright.costmodel.plan_file import read_plan_file
from shardwright.executor import RunOptions
from shardwright.specs.results.measurement import Fingerprint, Measurement, StepRecord
from tests.cli.command import JOB, Command, assert_one_line
from tests.reports.pages.test_report import data_of
from tests.reports.traces.test_joined import recorded


def measured(*, ranks: int) -> Measurement:
    """A run of one step on so many ranks."""
    return Measurement(
        ranks=ranks,
        warmup_steps=0,
        step_seconds=1.0,
        step_seconds_low=0.9,
        step_seconds_high=1.1,
        part_seconds={"forward_backward": 1.0},
        tokens_per_s=16384.0,
        mfu=None,
        peak_memory_bytes=(2.0**30,) * ranks,
        memory_kind="allocated",
        steps=(StepRecord(step=0, loss=1.0, gradient_norm=1.0, learning_rate=1e-4, seconds=1.0),),
        fingerprint=Fingerprint(device="d", host="h", python="p", torch="t", date="2026-01-01"),
    )


def test_plan_prints_ten_lines_and_details_the_rest(command: Command) -> None:
    short = command("plan", "llama-3.2-1b", *JOB)
    assert short.code == 0
    lines = short.out.splitlines()
    assert len(lines) <= 18
    assert max(map(len, lines)) <= 80
    labels = ["plan", "step", "memory", "bound by", "simpler", "search", "rests on", "assumes"]
    shown = [line[:9].strip() for line in lines[1:] if not line.startswith(" ")]
    assert shown[:8] == labels
    assert set(shown[8:]) == {"or"}
    assert shown.count("or") <= 3
    assert "or        fastest: " in short.out
    assert "fastest: " not in command("plan", "llama-3.2-1b", *JOB, "--fastest").out
    others = command("plan", "llama-3.2-1b", *JOB, "--json").json()["others"]
    assert [(set(one), one["names"]) for one in others] == [
        ({"names", "plan", "step_seconds", "change", "free_bytes", "trained"}, ["fastest"])
    ]
    assert -0.02 <= others[0]["change"] < 0
    details = command("plan", "llama-3.2-1b", *JOB, "--details").out
    for word in (
        "1.24 G parameters",
        "step time",
        "tokens/s",
        "MFU",
        "peak memory",
        "Why",
        "80% interval",
        "instead of",
    ):
        assert word in details


def test_the_short_form_computes_no_alternatives(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> list[str]:
        raise AssertionError("alternatives were computed and not printed")

    monkeypatch.setattr("shardwright.jobs.planned.explain", refuse)
    assert command("plan", "llama-3.2-1b", *JOB).code == 0
    with pytest.raises(AssertionError, match="alternatives"):
        command("plan", "llama-3.2-1b", *JOB, "--details")


def test_the_short_form_says_what_was_written_and_proven(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    options = ("--pp", "2", "--schedule", "1f1b", "--certify", "--out", path)
    printed = command("plan", "llama-3.2-1b", *JOB, *options).out
    assert "proves that no other partition" in " ".join(printed.split())
    assert printed.splitlines()[-1] == f"wrote {path}; train with it: shardwright run {path}"


def test_a_reserve_is_left_free_and_stays_in_the_plan_file(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    result = command("plan", "llama-3.1-8b", *JOB, "--memory-reserve", "0.25", "--out", out)
    assert result.code == 0
    device = read_plan_file(out).cluster.node.device
    assert device.memory_reserve == 0.25
    assert f"of {0.75 * device.memory_bytes / GIB:.1f} usable GiB" in " ".join(result.out.split())


def test_plan_as_json_is_the_file_that_out_writes(command: Command, plan_path: Path) -> None:
    printed = command("plan", "llama-3.2-1b", *JOB, "--json").json()
    written = json.loads(plan_path.read_text())
    assert printed["plan_file"]["plan"] == written["plan"]
    assert printed["parameters"] == {"total": 1_235_814_400, "active": 1_235_814_400}
    assert 0 <= printed["search"]["gap"] < 1
    assert all(isinstance(line, str) for line in printed["why"])


@pytest.mark.parametrize(("schedule", "chunks"), [("zb-2p", 1), ("zb-v", 2), ("v-half", 2)])
def test_a_plan_file_may_name_a_schedule_that_splits_the_backward(
    schedule: str, chunks: int, command: Command, tmp_path: Path
) -> None:
    """It is explained, simulated and compared."""
    path = tmp_path / "v.json"
    command("plan", "llama-3.2-1b", *JOB, "--pp", "2", "--stages-per-rank", "1", "--out", str(path))
    written = json.loads(path.read_text())
    written["estimate"] = None
    written["plan"] = {
        "mesh": {"pp": 2, "tp": 4},
        "micro_batch": 1,
        "microbatches": 16,
        "schedule": schedule,
        "stages": [{"layers": [{"count": 8 // chunks}]}] * 2 * chunks,
    }
    path.write_text(json.dumps(written))
    explained = command("explain", str(path))
    assert explained.code == 0
    assert (f"{schedule}, 2 stages a rank" if chunks == 2 else schedule) in explained.out
    simulated = command("simulate", str(path), "--json").json()
    assert len(simulated["idle_fractions"]) == 2
    compared = command("compare", "llama-3.2-1b", *JOB, "--plan", str(path), "--strategy", "best", "--json").json()
    by_name = {row["name"]: row for row in compared["rows"]}
    assert by_name["v.json"]["plan"]["schedule"] == schedule
    assert by_name["v.json"]["reason"] is None


def test_certify_adds_what_integer_programs_prove(command: Command) -> None:
    why = command("plan", "llama-3.2-1b", *JOB, "--pp", "2", "--schedule", "1f1b", "--certify", "--json").json()["why"]
    assert "proves that no other partition" in why[-1]
    assert "no stage has a cheaper recompute mix" in why[-1]
    interleaved = command("plan", "llama-3.2-1b", *JOB, "--pp", "2", "--stages-per-rank", "2", "--certify", "--json")
    assert interleaved.json()["why"][-1].startswith("No certificate")


def test_fixed_choices_are_kept(command: Command) -> None:
    fixed = ("--tp", "2", "--pp", "2", "--micro-batch", "1", "--recompute", "full")
    found = command("plan", "llama-3.1-8b", *JOB, *fixed, "--json").json()
    printed, memory = found["plan_file"]["plan"], found["why"][2]
    assert memory.endswith("The plan recomputes 32 of 32 layers.")  # because it was asked for, not for want of memory
    assert (printed["mesh"]["tp"], printed["mesh"]["pp"], printed["micro_batch"]) == (2, 2, 1)
    assert {run["recompute"] for stage in printed["stages"] for run in stage["layers"]} == {"full"}


def test_even_stages_and_sequence_parallelism_are_kept(command: Command) -> None:
    fixed = ("--tp", "2", "--pp", "2", "--even-stages", "--no-sequence-parallel")
    printed = command("plan", "llama-3.1-8b", *JOB, *fixed, "--json").json()["plan_file"]["plan"]
    sizes = {sum(run["count"] for run in stage["layers"]) for stage in printed["stages"]}
    assert len(sizes) == 1
    assert printed["sequence_parallel"] is False


def test_explain_compares_with_neighbours(command: Command, plan_path: Path) -> None:
    result = command("explain", plan_path)
    assert result.code == 0
    assert "instead of" in result.out
    assert command("explain", plan_path, "--json").json()["plan_file"]["model_name"] == "llama-3.2-1b"


def test_explain_prices_a_plan_changed_by_hand_anew(command: Command, plan_path: Path) -> None:
    data = json.loads(plan_path.read_text())
    for run in data["plan"]["stages"][0]["layers"]:
        run["recompute"] = "full"
    plan_path.write_text(json.dumps(data))
    estimate = command("explain", plan_path, "--json").json()["plan_file"]["estimate"]
    assert data["estimate"]["step"]["recompute"] == 0 < estimate["step"]["recompute"]


def test_explain_lays_a_measurement_beside(command: Command, plan_path: Path, tmp_path: Path) -> None:
    measurement = tmp_path / "measurement.json"
    measurement.write_text(measured(ranks=8).model_dump_json())
    assert "Predicted and measured" in command("explain", plan_path, "--measurement", measurement).out
    printed = command("explain", plan_path, "--measurement", measurement, "--json").json()
    assert printed["measurement"]["ranks"] == 8
    measurement.write_text(measured(ranks=2).model_dump_json())
    assert_one_line(command("explain", plan_path, "--measurement", measurement), "2 ranks", "the plan has 8")


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_one_rank_of_a_run_prints_the_measurement(
    command: Command, plan_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, speaks: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("shardwright.executor.run.launch", lambda *_, **__: measured(ranks=8))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text(plan_path.read_text())  # launch writes it
    result = command("run", plan_path, "--out", tmp_path / "out")
    assert result.code == 0
    assert ("Predicted and measured" in result.out) is speaks


def test_run_joins_what_it_recorded_with_the_simulation(
    command: Command, plan_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_plan_file(plan_path)
    timeline = simulate_plan(file.model(), file.cluster, file.training, file.plan)
    out, trace = tmp_path / "out", tmp_path / "trace.json"
    asked: list[RunOptions] = []

    def launched(_: Path, options: RunOptions, **others: object) -> Measurement:
        asked.append(options)
        return measured(ranks=8)

    monkeypatch.setattr("shardwright.executor.run.launch", launched)
    start = ("run", plan_path, "--out", out, "--trace", trace)
    out.mkdir()
    (out / "plan.json").write_text(plan_path.read_text())  # launch writes it
    assert_one_line(command(*start), "no step was recorded", "give another --out")
    (out / "trace").mkdir()
    (out / "trace" / "pipeline-rank-0.json").write_text(json.dumps(recorded(timeline, 0, slower=2.0)))
    result = command(*start)
    assert asked[0].trace_step
    assert "forward of stage 0" in result.out
    assert len(json.loads(trace.read_text())["traceEvents"]) > len(timeline.spans)
    assert_one_line(command(*start), str(trace), "exists")
    trace.unlink()
    (first, *_) = command(*start, "--json").json()["spans"]
    assert (first["what"], first["stage"]) == ("forward", 0)
    assert first["measured_seconds"] == pytest.approx(2 * first["simulated_seconds"])


def test_plans_of_one_name_in_two_folders_are_both_compared(command: Command, plan_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / plan_path.name
    other.parent.mkdir()
    other.write_text(plan_path.read_text())
    rows = command(
        "compare", "llama-3.2-1b", *JOB, "--strategy", "ddp", "--plan", plan_path, "--plan", other, "--json"
    ).json()["rows"]
    assert {row["name"] for row in rows} == {"ddp", str(plan_path), str(other)}


def test_simulate_agrees_with_the_estimate_and_writes_a_trace(
    command: Command, plan_path: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    found = command("simulate", plan_path, "--trace", trace, "--json").json()
    estimate = read_plan_file(plan_path).estimate
    assert estimate is not None
    assert abs(found["step_seconds"] / estimate.step_seconds - 1) < 0.01
    assert max(found["peak_memory_bytes"]) == pytest.approx(estimate.peak_memory_bytes)
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_plan_that_does_not_fit_is_told_first_and_fails_after_all_is_printed(
    command: Command, plan_path: Path
) -> None:
    data = json.loads(plan_path.read_text())
    data["cluster"]["groups"][0]["device"]["memory_bytes"] = 10e9
    data["cluster"]["groups"][0]["device"]["peak_flops_per_s"] = {"bf16": 1e10}  # a step of some thousand seconds
    plan_path.write_text(json.dumps(data))
    for verb in ("simulate", "explain"):
        result = command(verb, plan_path)
        assert result.code == 3
        assert result.err.startswith("error: this plan does not fit: pipeline rank 0 needs ")
        assert result.err.endswith("\n")
        assert result.err.count("\n") == 1
        assert "GiB too much" in result.err
        assert "peak memory" in result.out
        assert "e+0" not in result.out
        assert command(verb, plan_path, "--json").json()["infeasible"] in result.err
    assert 1000 < command("simulate", plan_path, "--json").json()["step_seconds"] < 6000
    assert re.search(r"on the fullest device, [0-9.]+ GiB too much", command("explain", plan_path).out)


def test_a_plan_that_fits_is_no_failure(command: Command, plan_path: Path) -> None:
    for verb in ("simulate", "explain"):
        result = command(verb, plan_path)
        assert (result.code, result.err) == (0, "")
        assert command(verb, plan_path, "--json").json()["infeasible"] is None


@pytest.mark.parametrize(
    ("choice", "ending"),
    [
        ((), "; train with it: shardwright run {path}"),
        (
            ("--cuda-graphs", "attention"),
            "; run refuses it: CUDA graphs can be estimated and compared, not run yet; ",
        ),
    ],
)
def test_plan_ends_with_how_to_train_or_with_what_run_lacks(
    command: Command, tmp_path: Path, choice: tuple[str, ...], ending: str
) -> None:
    path = tmp_path / "plan.json"
    result = command("plan", "llama-3.2-1b", *JOB, *choice, "--time-limit", "5", "--out", path)
    last = result.out.splitlines()[-1]
    assert last.startswith(f"wrote {path}{ending.format(path=path)}")
    if "refuses" in ending:
        assert "train with it" not in result.out
        assert_one_line(command("run", path), "CUDA graphs", "plan without --cuda-graphs")


@pytest.mark.parametrize(("written", "plain"), [("1k", "1024"), ("1_024", "1024")])
def test_counts_as_people_write_them(command: Command, written: str, plain: str) -> None:
    def planned(length: str, batch: str) -> object:
        job = ("--cluster", "h100-sxm:8", "--seq-len", length, "--global-batch", batch, "--micro-batch", "1")
        return command("plan", "llama-3.2-1b", *job, "--json").json()["plan_file"]["training"]

    assert planned(written, "16") == planned(plain, "1_6")


def test_compare_lists_every_way_and_the_planner_is_never_slower(command: Command, plan_path: Path) -> None:
    rows = command("compare", "llama-3.2-1b", *JOB, "--plan", plan_path, "--json").json()["rows"]
    seconds = {
        row["name"]: sum(row["estimate"]["step"].values()) for row in rows if row["estimate"] and not row["reason"]
    }
    assert {"ddp", "zero3", "best", "plan.json"} <= {row["name"] for row in rows}
    assert seconds["best"] <= min(seconds.values()) * (1 + 1e-9)
    assert seconds["best"] == seconds["plan.json"]


def test_the_figures_of_a_report_are_those_of_the_json(command: Command, plan_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    printed = command("explain", plan_path, "--report", page, "--json").json()
    estimate, text = printed["plan_file"]["estimate"], page.read_text(encoding="utf-8")
    charts = data_of(text)["charts"]
    step = {part["colour"]: part["values"][0] for part in charts["step"]["parts"]}
    assert step == {cause: seconds for cause, seconds in estimate["step"].items() if seconds}
    held = {part["colour"]: part["values"] for part in charts["memory"]["parts"]}
    for part in estimate["memory"][0]:
        assert held.get(part, [0.0] * len(estimate["memory"])) == [memory[part] for memory in estimate["memory"]]
    seconds = sum(estimate["step"].values())
    assert f"<b>{units.seconds(seconds)}</b>" in text
    assert f"<b>{units.count(estimate['tokens_per_s'])}</b>" in text
    assert charts["timeline"]["tick"] * charts["timeline"]["ticks"] == pytest.approx(seconds, rel=1e-6)
    mine = next(group for group in charts["rivals"]["groups"] if group["colour"] == "chosen")["points"][0]
    assert mine["x"] == pytest.approx(seconds, rel=1e-12)
    assert all(escape(line) in text for line in printed["why"])


def test_a_sweep_is_compared_and_written(command: Command, tmp_path: Path) -> None:
    job = ("llama-3.2-1b", *JOB, "--strategy", "ddp", "--strategy", "zero3")
    page = tmp_path / "page.html"
    found = command("compare", *job, "--sweep", "gpus=8,16", "--report", page, "--json").json()
    assert [point["value"] for point in found["points"]] == [8, 16]
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == found
    assert page.with_suffix(".csv").read_text(encoding="utf-8").count("\n") == 5
    printed = command("compare", *job, "--sweep", "seq-len=512,1k").out
    assert "fastest at 512 tokens of a sequence" in printed
    assert_one_line(command("compare", *job, "--sweep", "gpu=8,16"), "unknown 'gpu'", "Did you mean 'gpus'?")
    assert_one_line(command("compare", *job, "--report", page), str(page), "--force")


def test_planning_starts_without_torch() -> None:
    """In a process of its own: torch takes seconds to import, and planning needs no part of it."""
    code = (
        "import sys; from shardwright.cli import main; sys.argv = ['shardwright', *sys.argv[1:]]\n"
        "try:\n main()\nexcept SystemExit as ended:\n assert not ended.code, ended.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    for arguments in (("--help",), ("plan", "llama-3.2-1b", *JOB)):
        ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


FAILURES = ("--mtbf-device-hours", "8000", "--checkpoint-seconds", "30", "--restart-seconds", "300")


def test_explain_says_what_failures_leave(command: Command, plan_path: Path) -> None:
    """8 devices of 8000 hours: a failure every 1000 hours."""
    shown = command("explain", plan_path, *FAILURES).out
    assert "With failures and checkpoints" in shown
    assert "1000 h 00 min" in shown
    printed = command("explain", plan_path, *FAILURES, "--checkpoint-every", "7", "--json").json()
    left, throughput = printed["goodput"], printed["plan_file"]["estimate"]["tokens_per_s"]
    assert left["checkpoint_every"] == 7
    assert left["tokens_per_s"] == pytest.approx(left["training_share"] * throughput)
    assert "goodput" not in command("explain", plan_path, "--json").json()


def test_compare_says_what_failures_leave_of_each(command: Command) -> None:
    ways = ("--strategy", "ddp", "--strategy", "zero1")
    printed = command("compare", "llama-3.2-1b", *JOB, *ways, *FAILURES, "--json").json()
    assert set(printed["goodput"]) == {"ddp", "zero1"}
    assert "With failures" in command("compare", "llama-3.2-1b", *JOB, *ways, *FAILURES).out


def test_half_of_the_failure_options_is_a_mistake(command: Command, plan_path: Path) -> None:
    assert_one_line(command("explain", plan_path, *FAILURES[:2]), "--checkpoint-seconds, --restart-seconds")
    assert_one_line(command("explain", plan_path, *FAILURES[2:]), "--mtbf-device-hours or --mtbf-node-hours")
    negative = ("--mtbf-device-hours", "-1", *FAILURES[2:])
    assert_one_line(command("explain", plan_path, *negative), "mtbf_device_hours", "-1")


def test_more_noise_is_a_slower_step(command: Command, plan_path: Path) -> None:
    quiet, noisy = (
        command("explain", plan_path, "--step-noise", noise, "--json").json()["plan_file"]["estimate"]["step"]
        for noise in ("0", "0.05")
    )
    assert quiet["straggler"] == 0
    assert noisy["straggler"] > 0
    assert_one_line(command("explain", plan_path, "--step-noise", "1.5"), "--step-noise is 1.5", "a share from 0")


def test_a_plan_may_say_lower_precision_and_is_not_said_to_run(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "fp8.json"
    result = command("plan", "llama-3.2-1b", *JOB, "--linear-precision", "fp8-rowwise", "--out", path)
    assert read_plan_file(path).training.precision.linear == "fp8-rowwise"
    assert f"wrote {path}" in result.out
    assert "train with it" not in result.out
    assert_one_line(command("run", path), "linear precision fp8-rowwise", "not run yet", "--linear-precision fp8")


def test_the_planner_may_lower_the_precision_of_this_executor(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "fp8.json"
    result = command("plan", "llama-3.1-8b", *JOB, "--allow-precision", "fp8", "--tp", "1", "--out", path)
    assert read_plan_file(path).training.precision.linear == "fp8"
    assert "train with it" in result.out


def test_a_plan_file_with_context_and_expert_parallelism(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    command("plan", "qwen3-30b-a3b", *JOB, "--dp-shard", "8", "--zero-stage", "3", "--out", path)
    written = json.loads(path.read_text())
    plan = written["plan"]
    plan["mesh"].update(dp_shard=2, cp=4, ep=8)
    plan.update(micro_batch=1, microbatches=8, context_parallel="ring", expert_dispatch="deduplicated")
    path.write_text(json.dumps(written))
    explained = command("explain", path)
    for words in ("dp_shard2 x cp4 x ep8", "ring over 4 ranks", "expert parallel", "ep 4 instead of 8"):
        assert words in explained.out
    assert command("simulate", path, "--json").json()["step_seconds"] > 0
    compared = command("compare", "qwen3-30b-a3b", *JOB, "--strategy", "zero3", "--plan", path)
    assert "context by ring" in compared.out
    assert_one_line(command("run", path), "deduplicated dispatch", "not run yet")


def test_a_layout_deals_the_layers_of_a_plan_to_other_stages(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    command("plan", "llama-3.2-1b", *JOB, "--pp", "2", "--mtp-layers", "1", "--stack", "megatron-core", "--out", path)
    even = command("explain", path, "--json").json()["plan_file"]
    found = command("explain", path, "--pipeline-layout", "Et*10|t*6mL", "--json").json()["plan_file"]
    stages = found["plan"]["stages"]
    assert [sum(run["count"] for run in stage["layers"]) for stage in stages] == [10, 6]
    assert [stage["mtp_layers"] for stage in stages] == [0, 1]
    assert found["estimate"]["step"] != even["estimate"]["step"]
    assert_one_line(command("explain", path, "--pipeline-layout", "Et*8|t*8L"), "has 0 m", "give 1 m")
    assert_one_line(command("explain", path, "--pipeline-layout", "Et*8|t*8"), "end with its only L")


def test_documents_are_in_the_plan_and_in_its_words(command: Command, tmp_path: Path) -> None:
    path, lengths = tmp_path / "plan.json", tmp_path / "lengths.csv"
    lengths.write_text("length,count\n512,3\n6000,1\n")
    result = command("plan", "llama-3.2-1b", *JOB, "--lengths", lengths, "--packing", "padded", "--out", path)
    assert "lengths.csv, 1,884 tokens on average; padded" in result.out
    training = json.loads(path.read_text())["training"]
    assert (training["lengths"]["tokens"], training["packing"]) == ([512.0, 6000.0], "padded")
    assert "lengths.csv" in command("explain", path).out
    refused = command("plan", "llama-3.2-1b", *JOB, "--packing", "padded")
    assert_one_line(refused, "--packing padded", "give --lengths")
