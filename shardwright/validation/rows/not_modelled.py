"""Refuses runs that did not train every weight by the plan in their columns."""

import re

from .table import SkippedRowError, TableRow

# Searched in the model's name and the remarks, which take precedence over the columns.
_OTHER_RUNS = (
    (r"\bq?lora\b", "LoRA: trains adapters, not the model"),
    (r"optimi[sz]er(?: step)? into backward|optimizer-in-bwd", "optimizer step fused into the backward pass"),
    (r"\b8-?bit[ -]?(?:adam|optim)|\+ ?8bit\b", "optimizer state in 8 bits"),
    (r"\+ activation offloading", "offload of parameters or activations is not available in this version"),
    (r"technique: baseline;.*\(padded\)", "padded sequences: not every token computed is counted"),
)


def refuse_other_runs(row: TableRow) -> None:
    """Raise if the row says that the run is outside of the cost model.

    Raises:
        SkippedRowError: names what it did.
    """
    if row.reason is not None:
        raise SkippedRowError(row.reason)
    said = f"{row.model or ''}; {row.notes or ''}".lower()
    for pattern, reason in _OTHER_RUNS:
        if re.search(pattern, said):
            raise SkippedRowError(reason)
