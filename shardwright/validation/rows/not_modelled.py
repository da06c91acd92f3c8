"""Runs that did something else than training every weight by the plan that their columns state."""

import re

from .table import SkippedRowError, TableRow

# Looked for in the model's name and the remarks; what they say weighs more than the columns, which cannot say it.
_OTHER_RUNS = (
    (r"\bq?lora\b", "LoRA: trains adapters, not the model"),
    (r"optimi[sz]er(?: step)? into backward|optimizer-in-bwd", "optimizer step fused into the backward pass"),
    (r"\b8-?bit[ -]?(?:adam|optim)|\+ ?8bit\b", "optimizer state in 8 bits"),
    (r"\+ activation offloading", "offload of parameters or activations is not available in this version"),
    (r"technique: baseline;.*\(padded\)", "padded sequences: not every token computed is counted"),
)


def refuse_other_runs(row: TableRow) -> None:
    """Raise where the row says that what ran is outside of what the cost model describes.

    Raises:
        SkippedRowError: with what it is.
    """
    if row.reason is not None:
        raise SkippedRowError(row.reason)
    said = f"{row.model or ''}; {row.notes or ''}".lower()
    for pattern, reason in _OTHER_RUNS:
        if re.search(pattern, said):
            raise SkippedRowError(reason)
