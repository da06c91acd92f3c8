"""What goes on around the steps: evaluation, limits, event files."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.data.batches import open_held_back
from shardwright.executor.loop import ending
from shardwright.executor.loop.evaluation import Evaluation, Evaluations
from shardwright.executor.loop.wandb_log import check_wandb
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import build_engine
from shardwright.executor.training.manifest import complete_checkpoints
from shardwright.specs.results.measurement import read_measurement
from tests.executor.runs import VOCABULARY, losses, options, text_file, tiny
from tests.executor.training.test_trainer import with_estimate
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.worlds import RankFailedError, run_world

ONE = plan((layers(),))
PLANS = {
    "fsdp": plan((layers(zero=3),), dp_shard=2),
    "zero 1": plan((layers(zero=1),), dp_shard=2),
    "hsdp x tp": plan((layers(zero=2),), dp_replicate=2, dp_shard=2, tp=2, microbatches=1),
    "pp": plan((layers(1),), (layers(1),), pp=2, microbatches=4),
    "interleaved": plan(*[(layers(1),)] * 4, pp=2, schedule="interleaved-1f1b", microbatches=4),
    "zb-v x tp": plan(*[(layers(1),)] * 4, pp=2, tp=2, schedule="zb-v", microbatches=4),
    "cp": plan((layers(zero=3),), cp=2, context_parallel="ring"),
    "ulysses": plan((layers(zero=3),), cp=2, context_parallel="ulysses"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def held_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held-back") / "text.txt"
    path.write_text("".join(f"{number} and {number} is {2 * number}. " for number in range(100)))
    return path


def deep(name: str) -> PlanFile:
    divided = PLANS.get(name, ONE)
    return tiny(divided, layers=4 if len(divided.stages) == 4 else 2)


class TestEvaluation:
    @pytest.mark.parametrize("name", PLANS)
    def test_every_plan_finds_the_loss_of_one_process_and_trains_as_without(
        self, name: str, tmp_path: Path, data: Path, held_back: Path
    ) -> None:
        """Updates beside an evaluation are those without, to the last digit; a checkpoint holds shards."""
        split = deep(name)
        one = split.model_copy(
            update={"plan": plan((layers(split.plan.stages[0].layers[0].count * len(split.plan.stages)),))}
        )
        given: dict[str, Any] = {"data": data, "steps": 4, "checkpoint_every": 2}
        evaluated: dict[str, Any] = {"eval_data": (held_back,), "eval_every": 2}
        expected = losses(one, options(tmp_path / "one", **given, **evaluated))
        found = losses(split, options(tmp_path / "split", **given, **evaluated))
        assert found == losses(split, options(tmp_path / "bare", **given))
        assert found == pytest.approx(expected, abs=1e-5)
        ours, theirs = (Evaluations(tmp_path / run / "evaluations.jsonl").read() for run in ("split", "one"))
        assert [each.step for each in ours] == [2, 4]
        assert [each.tokens for each in ours] == [8 * 8 * 16] * 2
        assert [each.loss for each in ours] == pytest.approx([each.loss for each in theirs], abs=1e-5)
        assert ours[0].loss > ours[1].loss
        assert ours[0].perplexity == pytest.approx(math.exp(ours[0].loss))
        assert len(complete_checkpoints(tmp_path / "split" / "checkpoints")) == 2

    def test_it_is_the_loss_that_training_would_start_from(self, tmp_path: Path, held_back: Path) -> None:
        """Of the same batch, with the loss whole and in chunks of the head."""
        for chunks in (1, 2):
            file = tiny(ONE)
            file = file.model_copy(update={"training": file.training.model_copy(update={"loss_chunks": chunks})})
            run = options(tmp_path, data=held_back, eval_data=(held_back,), eval_every=1)
            training, evaluation, gradients = run_world(1, _both, file, run)[0]
            assert evaluation == pytest.approx(training, abs=1e-6)
            assert gradients == 0

    def test_documents_and_experts(self, tmp_path: Path, data: Path, held_back: Path) -> None:
        """Padding and last tokens have no label, so tokens are fewer; experts see every token."""
        file = plan_file({**FAMILIES["mixtral"], "vocab_size": VOCABULARY}, plan((layers(zero=3),), dp_shard=2, ep=2))
        one = file.model_copy(update={"plan": ONE})
        given: dict[str, Any] = {"data": data, "steps": 2, "eval_data": (held_back,), "eval_every": 2}
        found = []
        for name, each in (("split", file), ("one", one)):
            losses(each, options(tmp_path / name, checkpoint_every=None, **given))
            found += Evaluations(tmp_path / name / "evaluations.jsonl").read()
        assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)

    def test_a_resumed_run_has_each_once(self, tmp_path: Path, data: Path, held_back: Path) -> None:
        run = options(tmp_path / "run", data=data, eval_data=(held_back,), eval_every=1, checkpoint_every=2)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(tiny(ONE), run, stop_after_step=5)
        losses(tiny(ONE), run)
        assert [each.step for each in Evaluations(run.out / "evaluations.jsonl").read()] == [1, 2, 3, 4, 5, 6]

    def test_it_runs_beside_offload(self, tmp_path: Path, data: Path, held_back: Path) -> None:
        found = []
        for offload in (True, False):
            run = options(tmp_path / str(offload), data=data, eval_data=(held_back,), eval_every=1)
            losses(tiny(plan((layers(zero=2),), dp_shard=2, offload=offload)), run)
            found.append([each.loss for each in Evaluations(run.out / "evaluations.jsonl").read()])
        assert found[0] == pytest.approx(found[1], abs=1e-6)

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "evaluations.jsonl"
        path.write_bytes(b'{"step": 1, "lo\n')
        with pytest.raises(SpecError, match=r"evaluations\.jsonl: line 1 is damaged; take it out"):
            Evaluations(path).read()

    def test_a_loss_beyond_numbers_has_no_perplexity(self) -> None:
        assert "perplexity over 1e308" in str(Evaluation(step=1, loss=1e4, perplexity=None, tokens=3))


def _both(file: PlanFile, run: RunOptions) -> tuple[float, float, int]:
    engine = build_engine(file, device=torch.device("cpu"), seed=0)
    batches = open_held_back(file, run)
    assert batches is not None
    inputs, labels = batches.at(1)[:2]
    summed, tokens = engine.evaluate(inputs, labels)
    gradients = sum(parameter.grad is not None for part in engine.model_parts for parameter in part.parameters())
    return float(engine.forward_backward(inputs, labels)), summed / tokens, gradients


class TestLimits:
    def test_tokens_set_the_steps(self) -> None:
        """Of 128 tokens each."""
        run = RunOptions(out=Path("run"), until_tokens=1000, warmup_steps=5)
        assert run.with_steps_of_tokens(128).steps == 8
        both = RunOptions(out=Path("run"), until_tokens=1000, steps=3)
        assert both.with_steps_of_tokens(128).steps == 3
        assert RunOptions(out=Path("run")).with_steps_of_tokens(128).steps == 100
        with pytest.raises(SpecError, match="warmup_steps 500 exceeds steps 8"):
            RunOptions(out=Path("run"), until_tokens=1000, warmup_steps=500).with_steps_of_tokens(128)

    def test_hours_end_the_run_saved_and_the_next_start_goes_on(self, tmp_path: Path, data: Path) -> None:
        straight = losses(tiny(ONE), options(tmp_path / "straight", data=data, checkpoint_every=None))
        run = options(tmp_path / "run", data=data, checkpoint_every=100, until_hours=1e-9)
        told: list[str] = []
        for step in range(1, 7):
            assert losses(tiny(ONE), run, told=told) == straight[:step]
            assert [record.step for record in read_measurement(run.out / "measurement.json").steps][-1] == step
        assert told[1] == "1e-09 hours are over after step 1 of 6; the same command goes on"

    def test_minutes_save_too(self, tmp_path: Path, data: Path) -> None:
        run = options(
            tmp_path / "run", data=data, checkpoint_every=None, every_minutes=1e-9, keep_checkpoints=9, steps=3
        )
        losses(tiny(plan((layers(zero=3),), dp_shard=2)), run)
        names = [path.name for path in complete_checkpoints(run.out / "checkpoints")]
        assert names == ["step-000001", "step-000002", "step-000003"]

    def test_the_clock_is_that_of_the_first_rank(self, tmp_path: Path, data: Path) -> None:
        """Ranks whose clocks differ must not decide differently: one would save, and wait for the others."""
        run = options(tmp_path / "run", data=data, checkpoint_every=None, every_minutes=1e6, until_hours=1e6)
        losses(tiny(plan((layers(zero=3),), dp_shard=2)), run, before=let_the_clock_of_rank_1_run)
        assert [path.name for path in complete_checkpoints(run.out / "checkpoints")] == ["step-000006"]


def let_the_clock_of_rank_1_run() -> None:
    if dist.get_rank() == 1:
        now = iter(range(0, 10**12, 10**9))

        mock.patch.object(ending, "time", mock.Mock(monotonic=lambda: float(next(now)))).start()


STAND_IN = """
import json, os

class Settings:
    def __init__(self, **given): self.given = given

class Run:
    def __init__(self, given):
        self.file = open(os.path.join(given["dir"], "wandb", "said.jsonl"), "a")
        self.say("init", {name: given[name] for name in ("id", "mode", "project", "name", "resume", "config")})
        self.summary = self
    def say(self, what, values): print(json.dumps([what, values]), file=self.file, flush=True)
    def update(self, values): self.say("summary", values)
    def log(self, values, step):
        if os.path.exists(os.path.join(os.path.dirname(__file__), "broken")): raise OSError("the service is gone")
        self.say("log", {"step": step, **values})
    def finish(self): self.say("finish", {})

def init(**given):
    if given["mode"] == "online": raise RuntimeError("no API key")
    return Run(given)
"""
"""What this project calls of W&B, which the tests do not install."""


def import_from(folder: Path) -> None:
    sys.path.insert(0, str(folder))


class TestWandb:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        package = tmp_path / "site" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(STAND_IN)
        return package

    @staticmethod
    def said(run: RunOptions) -> list[tuple[str, dict[str, Any]]]:
        return [tuple(json.loads(line)) for line in (run.out / "wandb" / "said.jsonl").read_text().splitlines()]

    def test_steps_evaluations_and_the_prediction_are_told(
        self, tmp_path: Path, data: Path, held_back: Path, package: Path
    ) -> None:
        estimated = with_estimate(tiny(ONE), model_flops=1e9)
        given: dict[str, Any] = {"data": data, "eval_data": (held_back,), "eval_every": 2, "checkpoint_every": 2}
        run = options(tmp_path / "run", wandb="offline", **given)
        before = partial(import_from, package.parent)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(estimated, run, stop_after_step=3, before=before)
        found = losses(estimated, run, before=before)
        said = self.said(run)
        first, second = (values for what, values in said if what == "init")
        assert first == second, "the next start goes on with the run"
        assert first["mode"] == "offline"
        assert first["resume"] == "allow"
        assert first["name"] == "run"
        assert estimated.estimate is not None
        assert first["config"]["predicted"]["step_seconds"] == estimated.estimate.step_seconds
        assert first["config"]["plan"]["micro_batch"] == estimated.plan.micro_batch
        assert said[1] == (
            "summary",
            {f"predicted/{name}": value for name, value in first["config"]["predicted"].items()},
        )
        steps = {values["step"]: values for what, values in said if "loss/training" in values}
        assert [steps[step]["loss/training"] for step in sorted(steps)] == found
        assert {values["seconds/predicted"] for values in steps.values()} == {estimated.estimate.step_seconds}
        assert [values["step"] for _, values in said if "perplexity/held_back" in values][-2:] == [4, 6]
        assert said[-1] == ("finish", {})

    def test_a_service_that_fails_does_not_end_the_training(self, tmp_path: Path, data: Path, package: Path) -> None:
        (package / "broken").touch()
        told: list[str] = []
        run = options(tmp_path / "run", data=data, wandb="offline", steps=2)
        assert len(losses(tiny(ONE), run, before=partial(import_from, package.parent), told=told)) == 2
        assert told.count("W&B is written no more (the service is gone); the training goes on") == 1

    def test_a_run_that_cannot_begin_ends_in_one_line(self, tmp_path: Path, data: Path, package: Path) -> None:
        run = options(tmp_path / "run", data=data, wandb="online")
        with pytest.raises(
            RankFailedError, match=r"W&B cannot begin the run \(no API key\); give --wandb offline, and later"
        ):
            losses(tiny(ONE), run, before=partial(import_from, package.parent))

    def test_a_folder_of_the_name_is_no_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "wandb").mkdir()
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(SpecError, match=r"--wandb needs the package wandb: pip install '\.\[wandb\]'"):
            check_wandb()


class TestEventFiles:
    def test_what_was_written_reads_back_with_the_prediction_beside(
        self, tmp_path: Path, data: Path, held_back: Path
    ) -> None:

        estimated = with_estimate(tiny(ONE), model_flops=1e9)
        given: dict[str, Any] = {"data": data, "eval_data": (held_back,), "eval_every": 2, "checkpoint_every": 2}
        run = options(tmp_path / "run", tensorboard=True, **given)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(estimated, run, stop_after_step=5)
        found = losses(estimated, run)
        events = EventAccumulator(str(run.out / "tensorboard"), purge_orphaned_data=True).Reload()
        training = events.Scalars("loss/training")
        assert [event.step for event in training] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in training] == pytest.approx(found)
        assert [event.step for event in events.Scalars("perplexity/held_back")] == [2, 4, 6]
        assert estimated.estimate is not None
        predicted = {event.value for event in events.Scalars("seconds/predicted")}
        assert predicted == {estimated.estimate.step_seconds}
        assert len(events.Scalars("seconds/measured")) == 6
        assert "custom_scalars__config__" in events.Tags()["tensors"]
