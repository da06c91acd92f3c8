"""Small runs for the tests: a plan of a tiny model on a page of text, trained in a world of this machine's ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.options import RunOptions
from shardwright.executor.training.run_folder import RunFolder
from shardwright.executor.training.trainer import Trainer
from shardwright.specs.plan import Plan
from tests.parity.cases import FamilyName, model_config, plan_file
from tests.parity.worlds import run_world

VOCABULARY = 259  # no multiple of any mesh degree, so that shards are uneven


def tiny(plan: Plan, *, family: FamilyName = "llama", optimizer: str = "adamw", **changes: Any) -> PlanFile:
    file = plan_file(model_config(family, vocab_size=VOCABULARY, **changes), plan)
    return file.model_copy(update={"training": file.training.model_copy(update={"optimizer": optimizer})})


def text_file(folder: Path) -> Path:
    """A page of text that has something to learn in it."""
    path = folder / "text.txt"
    path.write_text("".join(f"{number} times {number} is {number * number}. " for number in range(400)))
    return path


def options(folder: Path, *, data: Path, **given: Any) -> RunOptions:
    small = {"steps": 6, "checkpoint_every": 3, "learning_rate": 3e-3, "timing_warmup_steps": 1}
    return RunOptions(out=folder, data=(data,), **{**small, **given})


def losses(
    plan: PlanFile,
    run: RunOptions,
    *,
    stop_after_step: int | None = None,
    before: Callable[[], None] | None = None,
    told: list[str] | None = None,
) -> list[float]:
    """The losses of the run's steps, those before a resume included; raises RankFailedError where it is told to stop.

    `before` is called on every rank first; `told` receives the lines of progress.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    found, lines = run_world(plan.plan.mesh.ranks, _train, plan, run, stop_after_step, before)[0]
    if told is not None:
        told += lines
    return found


class Stopped(BaseException):
    """Ends a rank at once, as a kill would."""


def _train(
    plan: PlanFile, run: RunOptions, stop_after_step: int | None, before: Callable[[], None] | None
) -> tuple[list[float], list[str]]:
    if before is not None:
        before()
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith(f"step {stop_after_step}/"):
            raise Stopped

    trainer = Trainer(plan, run, RunFolder(run.out), device=torch.device("cpu"), progress=progress)
    measurement = trainer.run()
    dist.barrier()
    return [record.loss for record in measurement.steps], lines
