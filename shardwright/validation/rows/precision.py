"""From a table row to the number formats of its training."""

import re

from shardwright.specs import LinearFormat, Precision
from shardwright.validation.table import SkippedRowError, TableRow

# The first that is found counts.
_LOWER_WORDS: tuple[tuple[str, LinearFormat], ...] = (
    ("mxfp8", "mxfp8"),
    ("nvfp4", "nvfp4"),
    ("rowwise_with_gw_hp", "fp8-rowwise-gw-hp"),
    ("rowwise", "fp8-rowwise"),
    ("fp8", "fp8"),
    ("float8", "fp8"),
)
_ALL_BF16 = re.compile(r"pure bf16 states|weights, gradients and adamw moments all bf16", re.IGNORECASE)
_LOADED_IN_BF16 = re.compile(r"torch_dtype[= ]bfloat16|torch_dtype[= ]bf16", re.IGNORECASE)
# It loads a model in the format of its checkpoint unless told otherwise (ms-swift, Command-line-parameters.md, torch_dtype).
_LOADS_AS_STORED = re.compile(r"\bms-?swift", re.IGNORECASE)


def precision_of_row(row: TableRow, family: str) -> tuple[Precision, list[str]]:
    """The formats of `row`, and what was assumed. `family` is that of its software.

    fp16 training in Megatron and DeepSpeed reduces gradients in two bytes, and so does llm-foundry's PURE mode in bf16. A
    lower format applies to the layers' weight matmuls, with bf16 for the rest. Without any word 16 bits are assumed,
    because bf16 and fp16 run alike on a GPU that has both.

    Raises:
        SkippedRowError: the precision is not known.
    """
    stated = (row.precision or "").lower()
    formats: dict[str, object] = {"compute": "bf16"}
    assumptions: list[str] = []
    word = next((word for word in _LOWER_WORDS if word[0] in stated), None)
    if word is not None:
        gather, assumptions = _gathers_fp8(row, family, word[1])
        formats |= {"linear": word[1], "gather": "fp8" if gather else None}
    elif "fp16" in stated or "half" in stated:
        formats |= {"compute": "fp16", "gradients": "bf16"}
    elif "tf32" in stated or "fp32" in stated:
        formats["compute"] = "tf32" if "tf32" in stated else "fp32"
    elif not stated:
        assumptions = ["16 bits"]
    elif "bf16" not in stated:
        raise SkippedRowError(f"precision '{row.precision}' is not known")
    return Precision.model_validate(formats | _states(row)), assumptions


def _states(row: TableRow) -> dict[str, object]:
    """Formats of gradients and of the optimizer's copy that notes or settings give."""
    notes, settings = row.notes or "", row.settings
    found: dict[str, object] = {}
    if "MP mode=PURE" in notes:
        found["gradients"] = "bf16"
    # FSDP and DeepSpeed would widen the shards that the optimizer updates
    alone = row.gpus == 1 and (_LOADED_IN_BF16.search(notes) or _LOADS_AS_STORED.search(row.framework or ""))
    if _ALL_BF16.search(notes) or alone:
        found |= {"gradients": "bf16", "parameters": "bf16"}
    if settings.grad_reduce is not None:
        found["gradients"] = settings.grad_reduce
    if settings.optimizer_states in ("bf16", "fp32"):
        found["parameters"] = settings.optimizer_states
    return found


def _gathers_fp8(row: TableRow, family: str, linear: LinearFormat) -> tuple[bool, list[str]]:
    """Whether FSDP gathers weights in fp8. torchtitan can with one scale for each tensor, and its benchmarks that state the recipe do."""
    stated = f"{row.precision} {row.notes}".lower()
    if linear != "fp8":
        return False, []
    if "float8 all-gather" in stated:
        return True, []
    if family == "torchtitan":
        return True, ["weights gathered in fp8"]
    return False, []
