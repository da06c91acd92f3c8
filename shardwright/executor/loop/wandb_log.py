"""A run at Weights & Biases: the numbers of TensorBoard's files, and the prediction in its configuration."""

import os
import secrets
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from shardwright.base import RunFailedError, SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.specs import StepRecord

from .evaluation import Evaluation
from .scalars import evaluation_scalars, step_scalars

WandbMode = Literal["offline", "online"]
_ID = "shardwright-run-id"


def check_wandb() -> None:
    """Check that the package is there; a folder of its name, as it writes one, is none.

    Raises:
        SpecError: it is not.
    """
    found = find_spec("wandb")
    if found is None or found.origin is None:
        raise SpecError("--wandb needs the package wandb: pip install '.[wandb]'")


class WandbLog:
    """Writes every step and evaluation to a run of W&B in `folder`/wandb. All starts of one folder are one run there.

    A failure later on ends the writing, which `tell` is told, and not the training.

    Raises:
        SpecError: the package wandb is absent.
        RunFailedError: W&B cannot begin the run.
    """

    def __init__(
        self, folder: Path, plan_file: PlanFile, options: RunOptions, mode: WandbMode, tell: Callable[[str], None]
    ) -> None:
        check_wandb()
        import wandb

        self._estimate, self._tell = plan_file.estimate, tell
        self._tokens_per_step = plan_file.training.tokens_per_step
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "shardwright"),
                name=os.environ.get("WANDB_NAME", folder.name),
                id=_run_id(folder / "wandb"),
                resume="allow",
                dir=str(folder),
                mode=mode,
                config=_config(plan_file, options),
                settings=wandb.Settings(console="off", silent=True),
            )
            self._run.summary.update(_predicted(plan_file, "predicted/"))
        except Exception as error:  # W&B's own kinds, and those of the network
            said = " ".join(str(error).split())
            fix = "; give --wandb offline, and later wandb sync" if mode == "online" else ""
            raise RunFailedError(f"W&B cannot begin the run ({said}){fix}") from None

    def add_step(self, record: StepRecord) -> None:
        self._log(step_scalars(record, self._estimate, self._tokens_per_step), record.step)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        self._log(evaluation_scalars(evaluation), evaluation.step)

    def close(self) -> None:
        self._try(lambda run: run.finish())

    def _log(self, scalars: dict[str, float], step: int) -> None:
        self._try(lambda run: run.log(scalars, step=step))

    def _try(self, write: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            write(self._run)
        except Exception as error:
            self._run = None
            self._tell(f"W&B is written no more ({' '.join(str(error).split())}); the training goes on")


def _run_id(folder: Path) -> str:
    """Return the name by which W&B knows the run of this folder, made at its first start."""
    path = folder / _ID
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _config(plan_file: PlanFile, options: RunOptions) -> dict[str, Any]:
    """Return what the run is, and what was predicted of it."""
    return {
        "model": plan_file.model_name,
        "cluster": plan_file.cluster.name,
        "plan": plan_file.plan.model_dump(mode="json"),
        "training": plan_file.training.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
        "predicted": _predicted(plan_file),
    }


def _predicted(plan_file: PlanFile, prefix: str = "") -> dict[str, float]:
    estimate = plan_file.estimate
    if estimate is None:
        return {}
    ends = {
        f"step_seconds_{end}_{interval.level * 100:.0f}": getattr(interval, end)
        for interval in estimate.step_seconds_intervals
        for end in ("low", "high")
    }
    memory = max(rank.total for rank in estimate.memory)
    others = {"tokens_per_s": estimate.tokens_per_s, "mfu": estimate.mfu, "peak_memory_bytes": memory}
    return {
        f"{prefix}{name}": value for name, value in ({"step_seconds": estimate.step_seconds} | ends | others).items()
    }
