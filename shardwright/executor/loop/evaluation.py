"""The loss on held-back data, and its record."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from shardwright.base import SpecError, write_whole
from shardwright.specs import NonNegativeFloat, NonNegativeInt, PositiveInt, Spec


class _Engine(Protocol):
    def evaluate(self, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> tuple[float, int]: ...


class Evaluation(Spec):
    """The held-back data after a step: the mean loss over its tokens with a label, and the perplexity, exp(loss)."""

    step: NonNegativeInt
    loss: NonNegativeFloat
    perplexity: float | None
    tokens: PositiveInt

    def __str__(self) -> str:
        perplexity = "over 1e308" if self.perplexity is None else f"{self.perplexity:.2f}"
        return f"step {self.step}  held-back loss {self.loss:.4f}  perplexity {perplexity}  ({self.tokens:,} tokens)"


def evaluate(
    engine: _Engine, batch: Callable[[int], tuple[Tensor, Tensor, Tensor | None]], *, batches: int, step: int
) -> Evaluation:
    """Compute the loss over `batches` global batches, of which `batch` gives this rank its share, from 1. Every rank calls this.

    Batches weigh by their tokens, so that the division into batches does not matter.
    """
    found = [engine.evaluate(*batch(number)) for number in range(1, batches + 1)]
    tokens = sum(count for _, count in found)
    loss = sum(summed for summed, _ in found) / tokens
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = None
    return Evaluation(step=step, loss=loss, perplexity=perplexity, tokens=tokens)


class Evaluations:
    """The file of a run's evaluations, one line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Evaluation]:
        """Return the evaluations so far, without a last line that a kill cut short.

        Raises:
            SpecError: a line is damaged.
        """
        if not self._path.is_file():
            return []
        found = []
        for number, line in enumerate(self._path.read_bytes().splitlines(keepends=True), 1):
            try:
                if line.endswith(b"\n"):
                    found.append(Evaluation.parse(json.loads(line), source=str(self._path)))
            except (ValueError, RecursionError):
                raise SpecError(f"{self._path}: line {number} is damaged; take it out, and start again") from None
        return found

    def keep_until(self, step: int) -> None:
        """Drop those after `step`, which a resumed run makes again."""
        kept = [each for each in self.read() if each.step <= step]
        if self._path.is_file():
            write_whole(self._path, "".join(each.model_dump_json() + "\n" for each in kept))

    def append(self, evaluation: Evaluation) -> None:
        with self._path.open("a", encoding="utf-8") as opened:
            opened.write(evaluation.model_dump_json() + "\n")
