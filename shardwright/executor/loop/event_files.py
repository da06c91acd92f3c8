"""TensorBoard's event files of a run, with the prediction as a line beside what is measured."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shardwright.base import SpecError, install
from shardwright.specs import Estimate, StepRecord

from .evaluation import Evaluation
from .scalars import evaluation_scalars, step_scalars

_CHARTS = {
    "prediction": {
        "seconds a step": ["Multiline", ["seconds/measured", "seconds/predicted"]],
        "tokens a second": ["Multiline", ["tokens_per_s/measured", "tokens_per_s/predicted"]],
    }
}


def check_event_files() -> None:
    """Check that the package is there.

    Raises:
        SpecError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise SpecError(f"--tensorboard needs the package tensorboard: {install('tensorboard')}")


class EventFiles:
    """Writes every step and evaluation into `folder`. What an earlier start wrote after `step` is purged.

    Raises:
        SpecError: the package tensorboard is absent.
    """

    def __init__(self, folder: Path, step: int, estimate: Estimate | None, tokens_per_step: int) -> None:
        check_event_files()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1, max_queue=100, flush_secs=10)
        self._estimate, self._tokens_per_step = estimate, tokens_per_step
        if estimate is not None:
            self._writer.add_custom_scalars(_CHARTS)

    def add_step(self, record: StepRecord) -> None:
        for name, value in step_scalars(record, self._estimate, self._tokens_per_step).items():
            self._writer.add_scalar(name, value, record.step)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        for name, value in evaluation_scalars(evaluation).items():
            self._writer.add_scalar(name, value, evaluation.step)

    def close(self) -> None:
        self._writer.close()
