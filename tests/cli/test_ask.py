"""`ask`: each question answers in a table and in JSON, `plan` confirms the answer, and mistakes give one line."""

import inspect
import json
from pathlib import Path

import pytest

from shardwright.cli import ask, plan
from tests.cli.command import JOB, Command, assert_one_line
from tests.cli.test_bad_input import TINY

_MODEL = "llama-3.2-1b"
_RUN = ("--tokens", "1B")
_QUESTIONS: dict[str, tuple[str, ...]] = {
    "longest-sequence": ("--cluster", "h100-sxm:8", "--global-batch", "16", "--step", "64k"),
    "largest-batch": JOB,
    "largest-model": (*JOB, "--forbid", "offload_optimizer"),
    "fewest-gpus": (*JOB, *_RUN, "--deadline", "10d"),
    "cost": (*JOB, *_RUN, "--price", "2.5"),
    "shape": JOB,
    "packing": (*JOB, "--lengths", "uniform:128..8k"),
}


@pytest.mark.parametrize("question", _QUESTIONS)
def test_each_question_has_the_options_of_plan(question: str) -> None:
    (command,) = [each.callback for each in ask.app.registered_commands if each.name == question]
    assert command is not None
    mine, of_plan = inspect.signature(command).parameters, inspect.signature(plan.plan).parameters
    lacking = {"context", "out", "report", "details", "certify", "fastest", "allow_fewer_devices", "phases"}
    needed = {"seq_len", "global_batch"}  # phases alone may state them in the options' place
    if question == "longest-sequence":
        lacking |= needed
    if question == "packing":
        lacking |= {"packing", "lengths"}
    assert all(mine[name].default is inspect.Parameter.empty for name in needed - lacking)
    for name in set(of_plan) - lacking - needed:
        assert mine[name].annotation == of_plan[name].annotation, name
        assert mine[name].default == of_plan[name].default, name


@pytest.mark.parametrize("question", _QUESTIONS)
def test_table_and_files(command: Command, tmp_path: Path, question: str) -> None:
    plan_path, page = tmp_path / "plan.json", tmp_path / "answer.html"
    result = command("ask", question, _MODEL, *_QUESTIONS[question], "--out", plan_path, "--report", page)
    assert result.code == 0, result.err
    assert _MODEL in result.out
    assert "choices" in result.out
    assert _MODEL in page.read_text(encoding="utf-8")
    assert command("explain", plan_path).code == 0
    again = command("ask", question, _MODEL, *_QUESTIONS[question], "--out", plan_path)
    assert_one_line(again, "exists; give --force")


class TestPlanConfirms:
    def step_seconds(self, command: Command, *arguments: str | Path) -> float:
        result = command("plan", *arguments, "--fastest", "--json")
        assert result.code == 0, result.err
        step: dict[str, float] = result.json()["plan_file"]["estimate"]["step"]
        return sum(step.values())

    def test_the_longest_sequence_and_the_next(self, command: Command) -> None:
        found = command("ask", "longest-sequence", _MODEL, *_QUESTIONS["longest-sequence"], "--json").json()
        job = (_MODEL, "--cluster", "h100-sxm:8", "--global-batch", "16", "--seq-len")
        seconds = self.step_seconds(command, *job, str(found["answer"]["value"]))
        assert seconds == pytest.approx(found["answer"]["step_seconds"])
        assert found["next_value"] == found["answer"]["value"] + 65536
        assert_one_line(command("plan", *job, str(found["next_value"])), found["next_fails_by"], code=3)

    def test_the_largest_microbatch_and_the_next(self, command: Command) -> None:
        job = (_MODEL, "--cluster", "h100-sxm:8", "--seq-len", "8k", "--global-batch", "512")
        found = command("ask", "largest-batch", *job, "--json").json()
        fixed = (*job, "--micro-batch")
        seconds = self.step_seconds(command, *fixed, str(found["answer"]["value"]))
        assert seconds == pytest.approx(found["answer"]["step_seconds"])
        assert_one_line(command("plan", *fixed, str(found["next_value"])), "no plan fits", code=3)
        fastest = max(found["cases"], key=lambda case: case["tokens_per_s"])
        assert found["fastest"] == fastest

    @pytest.mark.parametrize("question", ["largest-model", "shape"])
    def test_the_model_that_is_written(self, command: Command, tmp_path: Path, question: str) -> None:
        config = tmp_path / "large.json"
        options = _QUESTIONS[question]
        found = command("ask", question, _MODEL, *options, "--model-out", config, "--json").json()
        assert self.step_seconds(command, config, *options) == pytest.approx(found["answer"]["step_seconds"])
        assert json.loads(config.read_text())["num_hidden_layers"] == found["answer"]["model"]["layers"]

    def test_the_fewest_devices_and_one_node_less(self, command: Command) -> None:
        job = (_MODEL, "--seq-len", "8k", "--global-batch", "96")
        asked = ("--cluster", "h100-sxm:64", "--tokens", "100B", "--deadline", "2d")
        found = command("ask", "fewest-gpus", *job, *asked, "--json").json()
        devices, steps = found["answer"]["devices"], -(-(10**11) // (8192 * 96))
        assert 8 < devices < 64
        assert found["answer"]["steps"] == steps
        assert steps * self.step_seconds(command, *job, "--cluster", f"h100-sxm:{devices}") <= 2 * 86400
        assert steps * self.step_seconds(command, *job, "--cluster", f"h100-sxm:{devices - 8}") > 2 * 86400


def test_cost_says_money_energy_and_pareto(command: Command) -> None:
    found = command("ask", "cost", _MODEL, *JOB, *_RUN, "--price", "2.5", "--json").json()
    answer = found["answer"]
    assert answer["cost"] == pytest.approx(2.5 * answer["device_hours"])
    assert answer["energy_joules"] == pytest.approx(700 * 3600 * answer["device_hours"])  # an H100 SXM's limit is 700 W
    assert found["pareto"] == [0]


def test_a_deadline_that_nothing_meets_is_infeasible_after_the_table(command: Command) -> None:
    result = command("ask", "fewest-gpus", _MODEL, *JOB, "--tokens", "1T", "--deadline", "1h")
    assert result.code == 3
    assert "missed" in result.out
    assert result.err.startswith("error: no part of h100-sxm:8 that was tried trains on the tokens in ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fewest-gpus", _MODEL, *JOB, "--tokens", "1Q", "--deadline", "10d"), ("--tokens", "'1Q' is no number", "1T")),
        (("fewest-gpus", _MODEL, *JOB, *_RUN, "--deadline", "10x"), ("--deadline", "'10x' is no deadline", "10d")),
        (("fewest-gpus", _MODEL, *JOB, *_RUN, "--deadline", "2020-01-01"), ("'2020-01-01' is past",)),
        (("fewest-gpus", _MODEL, *JOB, *_RUN), ("--deadline",)),
        (("cost", _MODEL, *JOB, "--price", "2"), ("--tokens",)),
        (("cost", _MODEL, *JOB, *_RUN, "--price", "0"), ("--price is 0", "above 0, such as 2.5")),
        (("cost", _MODEL, *JOB, *_RUN, "--price", "nan"), ("--price is nan",)),
        (("cost", _MODEL, *JOB, *_RUN, "--plot", "cost.png"), ("No such option", "--plot")),
        (("longest-sequence", _MODEL, "--cluster", "h100-sxm:8"), ("either --global-batch", "--global-batch-tokens")),
        (
            ("longest-sequence", _MODEL, "--cluster", "h100-sxm:8", "--global-batch", "8", "--step", "0"),
            ("--step is 0", "such as 1024"),
        ),
        (
            ("longest-sequence", _MODEL, "--cluster", "h100-sxm:8", "--global-batch-tokens", "1000"),
            ("1000 tokens", "such as 1024"),
        ),
        (
            ("longest-sequence", _MODEL, "--cluster", "h100-sxm:8", "--global-batch-tokens", "0"),
            ("--global-batch-tokens is 0",),
        ),
        (("largest-batch", _MODEL, *JOB, "--of", "mirco"), ("--of is 'mirco'", "Did you mean 'micro'?")),
        (("largest-batch", _MODEL, *JOB, "--up-to", "64"), ("--up-to", "--of global")),
        (("largest-batch", _MODEL, *JOB, "--of", "global", "--up-to", "8"), ("batches up to 8", "from the batch 16")),
        (("largest-batch", _MODEL, *JOB, "--micro-batch", "2"), ("micro_batch 2 is fixed", "leave it out")),
        (("largest-model", _MODEL, *JOB, "--by", "high"), ("--by is 'high'", "both, depth or width")),
        (("largest-model", "llama-3.2-1", *JOB), ("Did you mean 'llama-3.2-1b'?",)),
        (("shape", _MODEL, *JOB, "--time-limit", "0"), ("--time-limit is 0",)),
        (("shape", _MODEL, *JOB, "--tp", "3"), ("tp 3",)),
        (("packing", _MODEL, *JOB), ("--lengths",)),
        (("packing", _MODEL, *JOB, "--lengths", "uniform:9..1"), ("'uniform:9..1'", "uniform:512..8192")),
        (("shap", _MODEL), ("shap",)),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else None,
)
def test_one_clear_line(command: Command, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(command("ask", *arguments), *words)


def test_a_model_of_an_unknown_family(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY | {"model_type": "lama"}))
    assert_one_line(command("ask", "largest-model", path, *JOB), "model_type", "'lama'", "llama")
