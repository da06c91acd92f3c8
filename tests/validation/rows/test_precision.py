"""Number formats of rows."""

import pytest

from shardwright.specs.training import Precision
from shardwright.validation.rows.precision import precision_of_row
from shardwright.validation.rows.stack import software_of_row
from shardwright.validation.table.table import SkippedRowError
from tests.validation.made_up_rows import row


def _precision(**changes: object) -> tuple[Precision, list[str]]:
    given = row(**changes)
    return precision_of_row(given, software_of_row(given).family)


@pytest.mark.parametrize(
    ("changes", "linear", "gather", "assumed"),
    [
        ({"precision": "fp8", "framework": "NeMo (Megatron-Core)"}, "fp8", None, []),
        ({"precision": "TE FP8", "framework": "Paxml (JAX)"}, "fp8", None, []),
        ({"precision": "fp8 linear + bf16"}, "fp8", "fp8", ["weights gathered in fp8"]),
        ({"precision": "fp8 linear + bf16", "notes": "compile + float8 all-gather"}, "fp8", "fp8", []),
        ({"precision": "fp8 linear + bf16 (float8 rowwise)"}, "fp8-rowwise", None, []),
        ({"precision": "fp8 linear + bf16 (float8 rowwise_with_gw_hp)"}, "fp8-rowwise-gw-hp", None, []),
        ({"precision": "mxfp8_cublas"}, "mxfp8", None, []),
        ({"precision": "NVFP4"}, "nvfp4", None, []),
    ],
)
def test_lower_formats_are_of_linears_beside_bf16(
    changes: dict[str, object], linear: str, gather: str | None, assumed: list[str]
) -> None:
    precision, assumptions = _precision(**changes)
    assert (precision.compute, precision.linear, precision.gather) == ("bf16", linear, gather)
    assert assumptions == assumed


def test_a_trainer_that_loads_as_stored_updates_in_16_bits_on_one_device() -> None:
    alone = _precision(framework="ms-swift 2.x (HF Trainer)", gpus=1)[0]
    assert (alone.parameters, alone.gradients) == ("bf16", "bf16")
    assert _precision(framework="ms-swift 2.x (HF Trainer)", gpus=8)[0].parameters == "fp32"
    assert _precision(framework="HF Trainer", gpus=1)[0].parameters == "fp32"


@pytest.mark.parametrize(
    ("stated", "notes", "compute", "gradients"),
    [
        ("bf16", None, "bf16", "fp32"),
        ("bf16", "MP mode=PURE", "bf16", "bf16"),
        ("fp16 mixed", None, "fp16", "bf16"),
        ("tf32", None, "tf32", "fp32"),
        ("fp32", None, "fp32", "fp32"),
    ],
)
def test_plain_formats(stated: str, notes: str | None, compute: str, gradients: str) -> None:
    precision, assumptions = _precision(precision=stated, notes=notes)
    assert (precision.compute, precision.gradients, precision.linear, assumptions) == (compute, gradients, None, [])


@pytest.mark.parametrize(("stated", "reason"), [("int3", "'int3' is not known"), ("q4_0", "'q4_0' is not known")])
def test_others_are_a_reason(stated: str | None, reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        _precision(precision=stated)


def test_without_a_word_sixteen_bits_are_assumed() -> None:
    precision, assumptions = _precision(precision=None)
    assert (precision.compute, assumptions) == ("bf16", ["16 bits"])
