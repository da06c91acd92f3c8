"""`python -m shardwright.calibration.device_readings`: what nvidia-smi showed beside torch's peak of allocated bytes.

The notes of fmsacc's rows give both. Of two runs that differ in the micro batch alone, the gap between the readings splits into a fixed
part, and a share of what the passes hold: `Stack.context_bytes` with the device's own, and `Stack.allocator_slack`, of Hugging Face's
trainers. The command prints both for runs on one device, and how well the figure of nvidia-smi is predicted for all runs.
"""

import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from shardwright.base import units as readable
from shardwright.validation.rows import trains_adapters
from shardwright.validation.scores import Outcome, predict_rows
from shardwright.validation.table import TableRow, read_table

from .tables import TABLES, is_put_away

_SHOWN = re.compile(r"nvidia-smi used (\d+) MiB")
_MIB = 2**20
_STACKS = ("hf-trainer", "hf-kbit", "hf-fast-kernels")
_TOO_SMALL = -0.05


class TwoReadings(NamedTuple):
    """One run, in bytes. `held`: parameters, gradients and optimizer state, as predicted. `predicted`: nvidia-smi's figure."""

    row: TableRow
    stack: str
    allocated: float
    shown: float
    held: float
    predicted: float

    @property
    def gap(self) -> float:
        return self.shown - self.allocated

    @property
    def passes(self) -> float:
        """What tensors of the passes occupy at the peak."""
        return self.allocated - self.held

    @property
    def error(self) -> float:
        return self.predicted / self.shown - 1


class Split(NamedTuple):
    """The gap of two runs: `fixed` bytes, and `share` of what the passes hold."""

    fixed: float
    share: float


def readings(rows: tuple[TableRow, ...]) -> list[TwoReadings]:
    """The runs whose notes give both readings and whose plan is predicted."""
    found = (_readings(row, outcome) for row, outcome in zip(rows, predict_rows(rows), strict=True))
    return [one for one in found if one is not None]


def _readings(row: TableRow, outcome: Outcome) -> TwoReadings | None:
    shown, allocated, timed = _SHOWN.search(row.notes or ""), outcome.result.memory_measured_bytes, outcome.timed
    if shown is None or allocated is None or timed is None:
        return None
    part = max(timed.prediction.estimate.memory, key=lambda one: one.total)
    held = part.parameters + part.gradients + part.optimizer_state
    return TwoReadings(row, timed.run.training.stack, allocated, float(shown[1]) * _MIB, held, part.total)


def splits(runs: Iterable[TwoReadings], stack: str) -> list[Split]:
    """The gap of each two runs of `stack` on one device with adapters that differ in the micro batch alone.

    Runs that train all weights on one device have their peak in the update, where the passes hold nothing.
    """
    alone = [run for run in runs if run.row.gpus == 1 and run.stack == stack and trains_adapters(run.row)]
    key = _same_job
    groups = (list(group) for _, group in itertools.groupby(sorted(alone, key=key), key=key))
    pairs = (pair for group in groups for pair in itertools.combinations(group, 2))
    return [_split(*pair) for pair in pairs if pair[0].row.micro_batch != pair[1].row.micro_batch]


def _same_job(run: TwoReadings) -> tuple[str, str]:
    setup = re.search(r"framework_config=(\S+)", run.row.notes or "")
    return (run.row.model or "", setup[1] if setup else "")


def _split(one: TwoReadings, other: TwoReadings) -> Split:
    share = (other.gap - one.gap) / (other.passes - one.passes)
    return Split(one.gap - share * one.passes, share)


def main() -> None:
    """Predict and print."""
    runs = readings(tuple(row for path in TABLES for row in read_table(path) if not is_put_away(row)))
    for stack in _STACKS:
        found = splits(runs, stack)
        fixed, share = [split.fixed for split in found], [split.share for split in found]
        print(
            f"{stack}, {len(found)} pairs on one device: {_spread(fixed, readable.size)}, "
            f"and {_spread(share, readable.share)} of what the passes hold"
        )
    for name, adapters in (("all weights trained", False), ("adapters", True)):
        errors = [run.error for run in runs if trains_adapters(run.row) == adapters]
        under = sum(error < _TOO_SMALL for error in errors) / len(errors)
        print(
            f"nvidia-smi's figure, {name}: {len(errors)} runs, median error {readable.signed_share(statistics.median(errors))}, "
            f"median size of errors {readable.share(statistics.median(map(abs, errors)))}, more than 5% too small {readable.share(under)}"
        )


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    return f"{shown(statistics.median(values))} ({shown(min(values))} to {shown(max(values))})"


if __name__ == "__main__":
    main()
