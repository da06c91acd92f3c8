"""Why a row has no prediction: its run did more than its columns say, or the cost model refuses it."""

import re

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.validation.table import SkippedRowError, TableRow

from .trainable import trains_adapters

# Searched in the model's name and the remarks, which take precedence over the columns.
_OTHER_RUNS = (
    (r"optimi[sz]er(?: step)? into backward|optimizer-in-bwd", "optimizer step fused into the backward pass"),
    (
        r"\b(?:[48]-?bit|fp8|int8|low-?bit|paged)[ -]?(?:adam|optim)|\badamw?[48]bit|\badamwfp8|\+ ?8bit\b",
        "optimizer state in less than 16 bits",
    ),
    (
        r"\bqat\b|quanti[sz]ation[- ]aware|fake[- ]quant",
        "quantisation-aware training: weights are rounded in every pass",
    ),
    (r"\bint8 mixed|\bint8 quanti[sz]ed|\bbitnet", "matmuls in int8 are not available in this version"),
    (r"\+ activation offloading", "offload of parameters or activations is not available in this version"),
    (r"technique: baseline;.*\(padded\)", "padded sequences: not every token computed is counted"),
)


_TRAINS_ALL = {"fine-tuning row": "full fine-tuning, every token of a sequence counted"}


def refuse_other_runs(row: TableRow) -> list[str]:
    """Raise if the row says that the run is outside of the cost model; return what was assumed to read it.

    Raises:
        SkippedRowError: names what it did.
    """
    if row.reason is not None and row.reason not in _TRAINS_ALL and not trains_adapters(row):
        raise SkippedRowError(row.reason)
    if row.settings.optimizer_states == "8bit":
        raise SkippedRowError("optimizer state in less than 16 bits")
    said = f"{row.model or ''}; {row.notes or ''}".lower()
    if row.seq_len is None and "torchtune" in (row.framework or "").lower() and "pack" not in said:
        raise SkippedRowError("padded samples of unknown lengths: torchtune does not pack by default")
    for pattern, reason in _OTHER_RUNS:
        if re.search(pattern, said):
            raise SkippedRowError(reason)
    return [_TRAINS_ALL[row.reason]] if row.reason in _TRAINS_ALL else []


def skip_reason(refusal: SkippedRowError | SpecError | ValidationError) -> str:
    """The reason in one line, worded alike for rows refused alike, so that these are counted together."""
    if isinstance(refusal, ValidationError):
        return f"not valid: {_first_fault(refusal)}"
    if isinstance(refusal, SpecError):
        return f"not valid for the cost model: {_without_numbers(str(refusal))}"
    return str(refusal)


def _first_fault(invalid: ValidationError) -> str:
    """The field, its noun, and what is wrong with it."""
    first = invalid.errors()[0]
    where = ".".join(str(part) for part in (invalid.title, *first["loc"]) if not isinstance(part, int))
    return f"{where}: {_without_numbers(first['msg'].removeprefix('Value error, '))}"


def _without_numbers(message: str) -> str:
    return re.sub(r"\d+", "N", message)
