"""Our own runs as tables for the terminal, and as rows of a CSV file."""

import csv
import io
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.specs import Profile

from .run import MOST_DRIFT, OwnRun, OwnSummary, Target, drifted, interpolation_targets


def own_runs_tables(runs: Sequence[OwnRun], *, parts: bool, profile: Profile | None = None) -> RenderableType:
    """Every run, predicted beside measured, and the verdicts, also on the `profile` that the predictions rest on. `parts` adds
    the parts of a step's time and of the predicted memory."""
    shown: list[RenderableType] = [_runs_table(runs)]
    if parts:
        shown += [_step_parts(runs), _memory_parts(runs)]
    shown.append(Text("Error: predicted / measured - 1. In brackets: 10% and 90% quantile of the steps.", style="dim"))
    if moved := drifted(runs):
        names = "; ".join(f"{run.name} ({readable.share(run.drift)})" for run in moved)
        shown.append(Text(f"Passes more than {readable.share(MOST_DRIFT)} apart, so something ran beside: {names}"))
    summary = OwnSummary.of(runs)
    targets = (*(summary.targets if summary else ()), *interpolation_targets(profile))
    shown.append(Text("\n".join(map(verdict, targets))))
    return Group(*shown)


def verdict(target: Target) -> str:
    """`PASS  step time, median error: 4.2% (at most 10.0%)`."""
    words = readable.share if target.is_share else readable.number
    passed = "PASS" if target.met else "FAIL"
    return f"{passed}  {target.what}: {words(target.value)} ({target.side} {words(target.limit)})"


def _runs_table(runs: Sequence[OwnRun]) -> Table:
    table = Table("configuration", title="Predicted and measured", title_justify="left")
    for column in ("step predicted", "measured", "", "error", "memory predicted", "measured", "error"):
        table.add_column(column, justify="right")
    for run in runs:
        low, high = run.spread_seconds
        table.add_row(
            run.name,
            readable.seconds(run.estimate.step_seconds),
            readable.seconds(run.step_seconds),
            f"({readable.number(low)}-{readable.number(high)})",
            readable.signed_share(run.time_error),
            readable.size(run.estimate.peak_memory_bytes),
            readable.size(run.peak_memory_bytes),
            readable.signed_share(run.memory_error),
        )
    return table


def _step_parts(runs: Sequence[OwnRun]) -> Table:
    """The parts of a step other than the passes."""
    table = Table("configuration", title="Parts of a step", title_justify="left")
    for column in ("passes predicted", "measured", "optimizer predicted", "measured", "data measured"):
        table.add_column(column, justify="right")
    for run in runs:
        step = run.estimate.step
        table.add_row(
            run.name,
            readable.seconds(step.total - step.optimizer),
            readable.seconds(run.part_seconds("forward_backward")),
            readable.seconds(step.optimizer),
            readable.seconds(run.part_seconds("optimizer")),
            readable.seconds(run.part_seconds("data")),
        )
    return table


def _memory_parts(runs: Sequence[OwnRun]) -> Table:
    parts = [name for name, _ in runs[0].estimate.memory[0] if any(dict(run.estimate.memory[0])[name] for run in runs)]
    table = Table("configuration", title="Predicted memory, MiB", title_justify="left")
    for column in (*(part.replace("_", " ") for part in parts), "baseline measured"):
        table.add_column(column, justify="right")
    for run in runs:
        predicted = dict(run.estimate.memory[0])
        baseline_bytes = min(each.baseline_memory_bytes for each in run.passes)
        sizes = [*(predicted[part] for part in parts), baseline_bytes]
        table.add_row(run.name, *(f"{size / 2**20:.0f}" for size in sizes))
    return table


def own_runs_csv(runs: Sequence[OwnRun]) -> str:
    """One CSV row for each configuration, in SI units, with the machine."""
    text = io.StringIO()
    rows = [_csv_row(run) for run in runs]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(run: OwnRun) -> dict[str, str | float | int]:
    low, high = run.spread_seconds
    machine, estimate = run.fingerprint, run.estimate
    return {
        "configuration": run.name,
        "counts": int(run.counts),
        "basis": estimate.basis,
        "passes": len(run.passes),
        "timed_steps": len(run.timed_seconds),
        "predicted_step_seconds": estimate.step_seconds,
        "measured_step_seconds": run.step_seconds,
        "measured_step_seconds_low": low,
        "measured_step_seconds_high": high,
        "predicted_optimizer_seconds": estimate.step.optimizer,
        **{f"measured_{part}_seconds": run.part_seconds(part) for part in ("forward_backward", "optimizer", "data")},
        "predicted_peak_memory_bytes": estimate.peak_memory_bytes,
        "measured_peak_memory_bytes": run.peak_memory_bytes,
        "device": machine.device,
        "torch": machine.torch,
        "python": machine.python,
        "date": machine.date,
    }
