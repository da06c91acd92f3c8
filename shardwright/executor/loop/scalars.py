"""The numbers of a step and of an evaluation by name, for whoever draws them, with the prediction beside what is measured."""

from typing import Protocol

from shardwright.specs import Estimate, StepRecord

from .evaluation import Evaluation


class Log(Protocol):
    """Something that draws a run's numbers, on rank 0."""

    def add_step(self, record: StepRecord) -> None: ...

    def add_evaluation(self, evaluation: Evaluation) -> None: ...

    def close(self) -> None: ...


def step_scalars(record: StepRecord, estimate: Estimate | None, tokens_per_step: int) -> dict[str, float]:
    """Return the numbers of a step; the norm of one that was skipped is no number, and left out."""
    scalars = {
        "loss/training": record.loss,
        "learning_rate": record.learning_rate,
        "seconds/measured": record.seconds,
        "tokens_per_s/measured": tokens_per_step / record.seconds,
    }
    if record.gradient_norm is not None:
        scalars["gradient_norm"] = record.gradient_norm
    if record.loss_scale is not None:
        scalars["loss_scale"] = record.loss_scale
    if estimate is not None:
        scalars["seconds/predicted"] = estimate.step_seconds
        scalars["tokens_per_s/predicted"] = tokens_per_step / estimate.step_seconds
    return scalars


def evaluation_scalars(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers of an evaluation; a perplexity beyond numbers is left out."""
    scalars = {"loss/held_back": evaluation.loss}
    if evaluation.perplexity is not None:
        scalars["perplexity/held_back"] = evaluation.perplexity
    return scalars
