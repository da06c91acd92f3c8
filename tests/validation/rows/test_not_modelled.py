"""Runs that were something else than their columns say, and the reason of every refusal."""

import pytest
from pydantic import ValidationError

from shardwright.base.errors import SpecError
from shardwright.specs.mesh import Mesh
from shardwright.validation.rows.not_modelled import refuse_other_runs, skip_reason
from shardwright.validation.table.table import SkippedRowError
from tests.validation.made_up_rows import row


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": "token-drop MoE run"}, "token-drop MoE run"),
        ({"notes": "technique: + Fuse optimizer step into backward"}, "fused into the backward"),
        ({"notes": "recipe (4090 full = optimizer-in-bwd + 8bit)"}, "fused into the backward"),
        ({"notes": "technique: + 8-bit AdamW"}, "less than 16 bits"),
        ({"notes": "AdamW4bit of a library"}, "less than 16 bits"),
        ({"notes": "paged AdamW"}, "less than 16 bits"),
        ({"notes": "QAT with int8 activations"}, "quantisation-aware"),
        ({"notes": "fake-quantised weights"}, "quantisation-aware"),
        ({"notes": "INT8 mixed precision"}, "matmuls in int8"),
        ({"framework": "torchtune", "seq_len": None}, "samples of unknown lengths"),
        ({"notes": "technique: + Activation Offloading"}, "offload of parameters or activations"),
        ({"notes": "cumulative technique: Baseline; baseline is unpacked (padded)"}, "padded sequences"),
    ],
)
def test_the_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        refuse_other_runs(row(**changes))


def test_an_ordinary_remark_is_none() -> None:
    said = refuse_other_runs(row(notes="technique: + Compile; baseline is unpacked (padded); float8 later; explored"))
    assert said == []


def test_adapters_are_predicted() -> None:
    assert refuse_other_runs(row(reason="LoRA/QLoRA row (kept apart)")) == []
    assert refuse_other_runs(row(notes="cumulative technique: LoRA; memory 8.5 GiB")) == []


def test_packed_samples_of_torchtune_fill_a_sequence() -> None:
    assert refuse_other_runs(row(framework="torchtune", seq_len=None, notes="packed")) == []
    assert refuse_other_runs(row(framework="torchtune", seq_len=2048)) == []


def test_a_refusal_is_worded_alike_for_rows_refused_alike() -> None:
    with pytest.raises(ValidationError) as invalid:
        Mesh(tp=-3)
    assert skip_reason(SkippedRowError("dp 3 unknown")) == "dp 3 unknown"
    assert skip_reason(SpecError("tp 3 does not divide 40 heads")) == (
        "not valid for the cost model: tp N does not divide N heads"
    )
    assert skip_reason(invalid.value).startswith("not valid: Mesh.tp: ")
    assert "3" not in skip_reason(invalid.value)
