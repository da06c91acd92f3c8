"""From a table row to the number formats of its training."""

from shardwright.specs import LinearFormat, Precision

from .table import SkippedRowError, TableRow

_EIGHT_BIT_WORDS: tuple[tuple[str, LinearFormat], ...] = (
    ("mxfp8", "mxfp8"),
    ("nvfp4", "nvfp4"),
    ("fp8", "fp8"),
    ("float8", "fp8"),
)


def precision_of_row(row: TableRow, family: str) -> tuple[Precision, list[str]]:
    """The formats of `row`, and what was assumed. `family` is that of its software.

    fp16 training in Megatron and DeepSpeed reduces gradients in two bytes, and so does llm-foundry's PURE mode in bf16. A
    lower format applies to the layers' weight matmuls, with bf16 for the rest.

    Raises:
        SkippedRowError: the precision is missing or not supported.
    """
    stated = (row.precision or "").lower()
    gradients = "bf16" if "MP mode=PURE" in (row.notes or "") else "fp32"
    for word, linear in _EIGHT_BIT_WORDS:
        if word in stated:
            gather, assumptions = _gathers_fp8(row, family, linear)
            return Precision.model_validate(
                {"compute": "bf16", "gradients": gradients, "linear": linear, "gather": "fp8" if gather else None}
            ), [*assumptions, *(["scales of rows read as of the whole tensor"] if "rowwise" in stated else [])]
    if "fp16" in stated or "half" in stated:
        return Precision(compute="fp16", gradients="bf16"), []
    if "bf16" in stated:
        return Precision.model_validate({"compute": "bf16", "gradients": gradients}), []
    if "tf32" in stated:
        return Precision(compute="tf32"), []
    if "fp32" in stated:
        return Precision(compute="fp32"), []
    raise SkippedRowError("precision unknown" if not stated else f"precision '{row.precision}' is not known")


def _gathers_fp8(row: TableRow, family: str, linear: LinearFormat) -> tuple[bool, list[str]]:
    """Whether FSDP gathers weights in fp8. torchtitan can with one scale for each tensor, and its benchmarks that state the recipe do."""
    stated = f"{row.precision} {row.notes}".lower()
    if linear != "fp8" or "rowwise" in stated:
        return False, []
    if "float8 all-gather" in stated:
        return True, []
    if family == "torchtitan":
        return True, ["weights gathered in fp8"]
    return False, []
