"""Whatever a user gets wrong is one clear line and exit code 2, a plan that can't fit exit code 3; nothing is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import JOB, Command, assert_one_line

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def replaced(arguments: tuple[str, ...], option: str, value: str) -> tuple[str, ...]:
    index = arguments.index(option) + 1
    return (*arguments[:index], value, *arguments[index + 1 :])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "llama-3.1-70", *JOB), ("llama-3.1-70b", "Did you mean")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "h10-sxm:8")), ("h10-sxm", "h100-sxm")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "h100-sxm:0")), ("h100-sxm:0",)),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "h100-sxm:-8")), ("-8",)),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "h100-sxm:nan")), ("nan",)),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "local:x")), ("local:x",)),
        (("plan", "llama-3.1-8b", *JOB, "--memory-reserve", "1"), ("--memory-reserve is 1", "0 to below 1")),
        (("compare", "llama-3.1-8b", *JOB, "--memory-reserve", "-0.1"), ("--memory-reserve is -0.1",)),
        (("plan", "llama-3.1-8b", *JOB, "--host-memory-reserve", "1"), ("--host-memory-reserve is 1", "0 to below 1")),
        (("plan", "llama-3.1-8b", *JOB, "--tp", "8", "--forbid", "tp"), ("--tp 8 and --forbid tp", "leave out one")),
        (("plan", "llama-3.1-8b", *JOB, "--pp", "5..7"), ("pp within 5..7", "the nearest is")),
        (("plan", "llama-3.1-8b", *JOB, "--fix", "tpp=2"), ("'tpp' is no choice of a plan", "Did you mean 'tp'?")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--seq-len", "0")), ("seq_len", "0", "greater than 0")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--seq-len", "-1")), ("seq_len", "-1")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--seq-len", "nan")), ("--seq-len", "nan")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--seq-len", "1.3k")), ("'--seq-len': '1.3k' is not a whole number",)),
        (("compare", "llama-3.1-8b", *replaced(JOB, "--global-batch", "4x")), ("--global-batch", "'4x'", "8k")),
        (("profile", "--model", "gpt2-124m", "--seq-len", "8q"), ("--seq-len", "'8q' is not a whole number")),
        (("plan", "llama-3.1-8b", *JOB, "--micro-batch", "two"), ("--micro-batch", "'two' is not a whole number")),
        (
            ("plan", "llama-3.1-8b", *JOB, "--order", "tp-cp-pp-dp", "--stack", "torchtitan"),
            ("stack 'torchtitan' does not run order", "tp-cp-dp-pp"),
        ),
        (("plan", "llama-3.1-8b", *JOB, "--order", "pp"), ("order: 'pp' is not known", "tp-cp-pp-dp")),
        (("plan", "llama-3.1-8b", *JOB, "--loss-chunks", "few"), ("--loss-chunks", "'few' is neither", "nor auto")),
        (
            ("plan", "llama-3.1-8b", *JOB, "--loss-chunks", "auto", "--stack", "megatron-lm"),
            ("stack 'megatron-lm' runs no loss in pieces",),
        ),
        (
            ("plan", "llama-3.1-8b", *JOB, "--allow-precision", "nvfp4"),
            ("runs no linears in nvfp4, only in fp8", "torchtitan"),
        ),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--global-batch", "0")), ("global_batch", "0")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--global-batch", "9" * 20)), ("global_batch", "2147483647")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--seq-len", "9" * 20)), ("seq_len", "2147483647")),
        (("plan", "/dev/zero", *JOB), ("/dev/zero", "device")),
        (("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", "/dev/zero")), ("/dev/zero",)),
        (("explain", "/dev/zero"), ("/dev/zero", "device")),
        (("validate", "/dev/zero"), ("/dev/zero", "device")),
        (("plan", "llama-3.1-8b", *JOB, "--precision", "bf61"), ("bf61", "bf16")),
        (("plan", "llama-3.1-8b", *JOB, "--stack", "megatron-cor"), ("megatron-cor'", "Did you mean 'megatron-core'?")),
        (("compare", "llama-3.1-8b", *JOB, "--stack", "torchtitn"), ("torchtitn'", "Did you mean 'torchtitan'?")),
        (("plan", "llama-3.1-8b", *JOB, "--tp", "3"), ("tp 3",)),
        (("plan", "llama-3.1-8b", *JOB, "--tp", "0"), ("tp", "0")),
        (("plan", "llama-3.1-8b", *JOB, "--micro-batch", "7"), ("7", "16")),
        (("plan", "llama-3.1-8b", *JOB, "--pp", "8", "--stages-per-rank", "5"), ("stages_per_rank", "at most 32")),
        (("plan", "llama-3.2-3b", *JOB, "--pp", "8", "--even-stages"), ("even_stages", "28 layers", "1, 2, 4, 7")),
        (("plan", "llama-3.1-8b", *JOB, "--zero-stage", "4"), ("zero_stage", "4")),
        (("plan", "llama-3.1-8b", *JOB, "--schedule", "1f2b"), ("1f2b", "1f1b")),
        (("plan", "llama-3.1-8b", *JOB, "--time-limit", "-1"), ("-1",)),
        (("plan", "llama-3.1-8b", *JOB, "--time-limit", "nan"), ("nan",)),
        (("plan", "llama-3.1-8b", "--clutser", "h100-sxm:8"), ("--clutser", "--cluster")),
        (("plan", "llama-3.1-8b"), ("--cluster",)),
        (("paln", "llama-3.1-8b"), ("paln",)),
        (("plan", "gpt2-124m", *replaced(JOB, "--seq-len", "4096")), ("4096", "1024")),
        (("compare", "llama-3.1-8b", *JOB, "--strategy", "zreo3"), ("zreo3", "zero3")),
        (("explain", "missing.json"), ("missing.json",)),
        (("validate", "missing.csv"), ("missing.csv",)),
        (("run", "missing.json"), ("missing.json",)),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else None,
)
def test_one_clear_line(command: Command, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(command(*arguments), *words)


@pytest.mark.parametrize(
    ("asked", "stack"),
    [(("--allow-precision", "nvfp4"), "shardwright"), (("--recompute-modules", "auto"), "torchtitan")],
)
def test_nothing_near_is_offered_for_what_the_stack_lacks(command: Command, asked: tuple[str, str], stack: str) -> None:
    """Other batches and fewer devices help where nothing divides, not here."""
    result = command("plan", "llama-3.1-8b", *JOB, *asked, "--stack", stack)
    assert_one_line(result, f"stack '{stack}'")
    assert "a plan was found" not in result.err


class TestModelFiles:
    def config(self, folder: Path, **changes: Any) -> Path:
        path = folder / "config.json"
        path.write_text(json.dumps(TINY | changes))
        return path

    def test_truncated_json(self, command: Command, tmp_path: Path) -> None:
        path = self.config(tmp_path)
        path.write_text(path.read_text()[:-20])
        assert_one_line(command("plan", path, *JOB), str(path), "not valid JSON", "line 1")

    def test_nan_in_json(self, command: Command, tmp_path: Path) -> None:
        path = self.config(tmp_path)
        path.write_text(path.read_text().replace("128", "NaN"))
        assert_one_line(command("plan", path, *JOB), str(path), "NaN")

    def test_zero_heads(self, command: Command, tmp_path: Path) -> None:
        assert_one_line(command("plan", self.config(tmp_path, num_attention_heads=0), *JOB), "num_attention_heads", "0")

    def test_unknown_family(self, command: Command, tmp_path: Path) -> None:
        assert_one_line(command("plan", self.config(tmp_path, model_type="lama"), *JOB), "lama", "llama")

    def test_a_reward_model(self, command: Command, tmp_path: Path) -> None:
        path = self.config(tmp_path, architectures=["LlamaForSequenceClassification"], num_labels=1)
        assert_one_line(command("plan", path, *JOB), "LlamaForSequenceClassification", "supported: LlamaForCausalLM")

    def test_code_that_a_config_names_is_never_run(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "modeling.py").write_text("raise SystemExit('the code of a config was run')")
        path = self.config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling.Model"})
        result = command("plan", path, *JOB)
        assert result.code == 0 or "was run" not in result.err

    def test_heads_that_tp_does_not_divide(self, command: Command, tmp_path: Path) -> None:
        assert_one_line(command("plan", self.config(tmp_path), *JOB, "--tp", "8"), "tp 8")

    def test_more_stages_than_layers(self, command: Command, tmp_path: Path) -> None:
        assert_one_line(command("plan", self.config(tmp_path), *JOB, "--pp", "8"), "4 layers")


class TestClusterFiles:
    def test_true_is_no_count(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "cluster.toml"
        path.write_text('nodes = true\ndevice = "h100-sxm"\n')
        assert_one_line(command("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", str(path))), "nodes", "True")

    def test_no_memory(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "cluster.toml"
        path.write_text('name = "mine"\n[[groups]]\nnodes = 1\ndevice = { like = "h100-sxm", memory_bytes = 0 }\n')
        assert_one_line(command("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", str(path))), "memory_bytes", "0")

    def test_unknown_key(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "cluster.toml"
        path.write_text('name = "mine"\n[[groups]]\nnode = 1\ndevice = "h100-sxm"\n')
        assert_one_line(command("plan", "llama-3.1-8b", *replaced(JOB, "--cluster", str(path))), "node", "nodes")


Change = Callable[[dict[str, Any]], None]


def _newer(plan: dict[str, Any]) -> None:
    plan["schema_version"] = 2


def _unknown_key(plan: dict[str, Any]) -> None:
    plan["plan"]["micro_bacth"] = 1


def _another_batch(plan: dict[str, Any]) -> None:
    plan["plan"]["microbatches"] = 3


def _too_few_layers(plan: dict[str, Any]) -> None:
    plan["plan"]["stages"][0]["layers"] = plan["plan"]["stages"][0]["layers"][:1]
    plan["plan"]["stages"][0]["layers"][0]["count"] = 1


def _boolean(plan: dict[str, Any]) -> None:
    plan["plan"]["micro_batch"] = True


def _no_plan(plan: dict[str, Any]) -> None:
    plan.pop("kind")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_newer, ("schema version 2", "reads up to 1")),
        (_unknown_key, ("micro_bacth", "micro_batch")),
        (_another_batch, ("16",)),
        (_boolean, ("micro_batch", "True", "number")),
        (_too_few_layers, ("16",)),
        (_no_plan, ("not a plan file",)),
    ],
)
@pytest.mark.parametrize("verb", ["explain", "simulate", "run"])
def test_plan_files(
    command: Command, plan_path: Path, tmp_path: Path, verb: str, change: Change, words: tuple[str, ...]
) -> None:
    data = json.loads(plan_path.read_text())
    change(data)
    plan_path.write_text(json.dumps(data))
    arguments = (verb, plan_path, "--out", tmp_path / "out") if verb == "run" else (verb, plan_path)
    assert_one_line(command(*arguments), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--seq-len", "2048", ("planned for --seq-len 1024, this comparison is for 2048", "give --seq-len 1024")),
        ("--global-batch", "32", ("planned for --global-batch 16", "give --global-batch 16")),
    ],
)
def test_comparing_a_plan_for_another_batch(
    command: Command, plan_path: Path, option: str, value: str, words: tuple[str, ...]
) -> None:
    job = replaced(JOB, option, value)
    assert_one_line(command("compare", "llama-3.2-1b", *job, "--plan", plan_path), str(plan_path), *words)


def test_comparing_a_plan_in_other_formats(command: Command, plan_path: Path) -> None:
    result = command("compare", "llama-3.2-1b", *JOB, "--linear-precision", "fp8", "--plan", plan_path)
    assert_one_line(result, "planned for --linear-precision none", "is for fp8; leave --linear-precision out")


def test_comparing_a_plan_whose_dispatch_overlaps(command: Command, plan_path: Path, tmp_path: Path) -> None:
    """A flag has no value to give."""
    plan = json.loads(plan_path.read_text())
    plan["training"]["overlaps_dispatch"] = True
    path = tmp_path / "overlapping.json"
    path.write_text(json.dumps(plan))
    result = command("compare", "llama-3.2-1b", *JOB, "--plan", path)
    assert_one_line(result, "planned for --overlap-dispatch on, this comparison is for none")
    assert result.err.rstrip().endswith("; give --overlap-dispatch")
    result = command("compare", "llama-3.2-1b", *JOB, "--overlap-dispatch", "--plan", plan_path)
    assert_one_line(
        result, "planned for --overlap-dispatch none, this comparison is for on; leave --overlap-dispatch out"
    )


def test_a_plan_for_eight_ranks_on_two(command: Command, plan_path: Path, tmp_path: Path) -> None:
    result = command("run", plan_path, "--out", tmp_path / "out", "--ranks", "2")
    assert_one_line(result, "8 ranks", "2")
    assert not (tmp_path / "out").exists()


class TestNothingIsWrittenOver:
    def test_an_existing_file_stays(self, command: Command, plan_path: Path) -> None:
        before = plan_path.read_text()
        assert_one_line(command("plan", "llama-3.1-8b", *JOB, "--out", plan_path), str(plan_path), "--force")
        assert plan_path.read_text() == before

    def test_force_replaces_it(self, command: Command, plan_path: Path) -> None:
        assert command("plan", "llama-3.1-8b", *JOB, "--out", plan_path, "--force").code == 0
        assert json.loads(plan_path.read_text())["model_name"] == "llama-3.1-8b"

    def test_a_failed_plan_leaves_it(self, command: Command, plan_path: Path) -> None:
        before = plan_path.read_text()
        result = command("plan", "llama-3.1-405b", *JOB, "--out", plan_path, "--force")
        assert_one_line(result, "GiB", code=3)
        assert plan_path.read_text() == before

    def test_not_even_force_replaces_a_pipe(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        assert_one_line(command("plan", "llama-3.1-8b", *JOB, "--out", path, "--force"), str(path), "pipe")
        assert path.is_fifo()

    def test_two_outputs_of_one_name(self, command: Command, tmp_path: Path) -> None:
        path, same = tmp_path / "plan.json", tmp_path / "." / "plan.json"
        result = command("plan", "llama-3.1-8b", *JOB, "--out", path, "--report", same)
        assert_one_line(result, "two outputs")
        assert not path.exists()

    @pytest.mark.parametrize(("verb", "option"), [("simulate", "--trace"), ("explain", "--report")])
    def test_what_is_read_is_not_replaced(self, command: Command, plan_path: Path, verb: str, option: str) -> None:
        before = plan_path.read_text()
        assert_one_line(command(verb, plan_path, option, plan_path, "--force"), str(plan_path), "read by this command")
        assert plan_path.read_text() == before

    def test_a_missing_folder_is_named(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "none" / "plan.json"
        assert_one_line(command("plan", "llama-3.1-8b", *JOB, "--out", path), str(path.parent))


def test_a_comparison_in_which_nothing_fits_says_why_and_fails(command: Command) -> None:
    result = command("compare", "llama-3.1-405b", *JOB, "--strategy", "ddp", "--strategy", "zero3")
    assert result.code == 3
    assert "ddp: " in result.out
    assert "GiB too much" in result.out
    assert result.err == "error: none of these ways to train llama-3.1-405b fits h100-sxm:8\n"


def test_a_broken_plan_is_refused_before_torch_starts() -> None:
    code = (
        "import sys; from shardwright.cli import main; sys.argv = ['shardwright', 'run', 'missing.json']\n"
        "try:\n main()\nexcept SystemExit as ended:\n assert ended.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_infeasible_says_what_would_fit(command: Command) -> None:
    result = command("plan", "llama-3.1-405b", *JOB)
    assert_one_line(result, "memory", "GiB too much", "devices", code=3)


@pytest.mark.parametrize(
    ("modules", "stack", "says"),
    [
        ("layer_norm", "megatron-core", "'layernorm'"),
        ("layernorm", "torchtitan", "names none; leave them out, or use stack megatron-core or nemo"),
        ("mla_up_proj", "shardwright", "repeats core_attn+layernorm+mlp+moe+moe_act+shared_experts only"),
    ],
)
def test_modules_to_recompute(command: Command, modules: str, stack: str, says: str) -> None:
    result = command("plan", "llama-3.2-1b", *JOB, "--stack", stack, "--recompute-modules", modules)
    assert_one_line(result, "recompute_modules", says)
