"""Tables that nobody has sent yet: other hardware, frameworks and words, sizes out of the ordinary, cells that make no sense.

Whatever stands in a row, it is predicted or skipped with a reason; the real cost model and planner, nothing faked.
"""

import math
import random
from pathlib import Path

import pytest

from shardwright.validation.pages.report import render_validation_report
from shardwright.validation.scores.outcome import Outcome
from shardwright.validation.scores.validate import predict_rows, validate_table
from shardwright.validation.table.table import TableRow
from tests.validation.made_up_rows import LLAMA_ROW, row, write_csv

# Values that other tables may hold, the ordinary and the odd; None is an empty cell.
_CELLS: dict[str, list[object]] = {
    "framework": ["Megatron-Core 0.12", "torchtitan", "DeepSpeed", "nobody's", None, "NeMo 2.0", "MaxText", "nanotron"],
    "year": [2019, 2021, 2026, None],
    "model": ["Llama-3.1-70B", "Qwen2.5-32B", "Mixtral-8x7B", "DeepSeek V3", "GPT-X", "x" * 300, None, "[b]§"],
    "params_b": [0.001, 13.0, 1e6, None],
    "layers": [1, 7, 40, 1000, None],
    "hidden": [8, 5120, 12288, 5121, None],
    "heads": [1, 40, 96, 7, None],
    "kv_heads": [1, 8, 40, 1000, None],
    "ffn_hidden": [1, 13824, 10**7, None],
    "vocab": [1, 32000, 50257, 10**9, None],
    "tied_embeddings": [True, False, None],
    "seq_len": [1, 4096, 131_072, 10_000_000, 4097, None],
    "experts": [None, None, None, 8, 256],
    "topk": [None, 2, 300],
    "moe_ffn": [None, None, 1408],
    "gpu": [
        "H100-SXM-80GB",
        "B200",
        "GB200",
        "H200",
        "H800",
        "MI300X",
        "V100-SXM-32GB",
        "TPU v5p",
        "rtx 4090",
        None,
        "80GB",
    ],
    "gpus": [1, 8, 64, 63, 16_384, 10**12, None],
    "gpus_per_node": [1, 4, 8, 72, 10**9, None],
    "interconnect": ["400 Gb/s RDMA per GPU", "0 Gb/s per GPU", "8x 0 Gb", "slow", None, "999999999 x 999999999 Gb"],
    "precision": ["bf16", "fp16", "fp8", "mxfp8", "nvfp4", "tf32", "fp32", "int3", None],
    "tp": [1, 2, 8, 3, 10**6, None],
    "sp": [True, False, None],
    "pp": [1, 4, 16, 5, 10**6, None],
    "vpp": [None, 1, 2, 5, 10**6],
    "dp": [None, 1, 8, 64, 10**6],
    "cp": [1, 2, None, 10**6],
    "ep": [1, None, 8, 10**6],
    "zero_or_fsdp": ["fsdp-full", "0", "1", "2", "HSDP", "zero++", None, "none"],
    "micro_batch": [1, 2, 3, 10**6, None],
    "global_batch": [1, 128, 1536, 10_000_000, 9_999_991, None],
    "recompute": ["none", "full", "selective", "block", "unknown", None, "Yes"],
    "offload": [None, "none", "optimizer", "params+optimizer", "activations"],
    "attention": ["flash", "unfused", None, "ring", "cuDNN"],
    "metric_name": [
        "tokens_per_s_per_gpu",
        "s_per_iter",
        "mfu_pct",
        "tflops_per_gpu",
        "tokens_per_s",
        "nonsense",
        None,
    ],
    "metric_value": [1e-12, 2162.0, 1e15, None],
    "metric_unit": ["tokens/s/GPU", None],
    "flops_convention": [None, "model FLOPs", "SC21", "6*N*T", "peak 0 TFLOP", "hardware FLOPs"],
    "peak_mem_gb": [None, 0.001, 60.0, 1e9],
    "notes": [
        None,
        "schedule=ZBV",
        "DualPipe",
        "GPipe",
        "zero1 group size 0",
        "FSDP shard group=3",
        "interleaved 1F1B",
        "(",
    ],
    "source": [None, "o/r a.md@abc line 1 [T(x]", "[", "(((", "https://x.org/a?b=c"],
}
_FEWEST_CHANGES, _MOST_CHANGES = 1, 12


def _made_up(seed: int) -> TableRow:
    chance = random.Random(seed)
    columns = chance.sample(sorted(_CELLS), chance.randint(_FEWEST_CHANGES, _MOST_CHANGES))
    return row(id=f"made-up-{seed}", **{column: chance.choice(_CELLS[column]) for column in columns})


def _check(outcome: Outcome) -> None:
    result = outcome.result
    assert (result.skipped is None) == (result.relative_error is not None), outcome.run
    if result.skipped is not None:
        assert result.skipped.strip(), outcome.run
        assert "\n" not in result.skipped, outcome.run
    for value in (
        result.predicted,
        result.relative_error,
        result.low_80,
        result.high_80,
        result.memory_predicted_bytes,
    ):
        assert value is None or math.isfinite(value), outcome.run
    assert result.predicted is None or result.predicted > 0, outcome.run


@pytest.mark.parametrize("batch", range(10))
def test_every_row_is_predicted_or_skipped_with_a_reason(batch: int) -> None:
    table = tuple(_made_up(seed) for seed in range(60 * batch, 60 * batch + 60))
    outcomes = list(predict_rows(table))
    assert [outcome.run.id for outcome in outcomes] == [given.id for given in table]
    for outcome in outcomes:
        _check(outcome)


@pytest.mark.parametrize("column", sorted(_CELLS))
def test_one_odd_cell_in_a_good_row(column: str) -> None:
    table = tuple(row(id=str(number), **{column: value}) for number, value in enumerate(_CELLS[column]))
    for outcome in predict_rows(table):
        _check(outcome)


def test_a_table_of_the_required_columns_alone_is_enough(tmp_path: Path) -> None:
    required = [name for name, field in TableRow.model_fields.items() if field.is_required()]
    path = tmp_path / "t.csv"
    path.write_text(
        ",".join(required) + "\n" + ",".join(str(LLAMA_ROW.get(name, "")) for name in required) + "\n", encoding="utf-8"
    )
    result = validate_table(path)
    assert result.summary.predicted == 1
    assert "1 of 1 rows predicted" in render_validation_report(result, table_name="t.csv")


def test_a_large_run_is_predicted_soon() -> None:
    """Llama 3's own size: 16,384 devices with everything but the mesh left to the planner."""
    large = row(
        model="Llama-3.1-405B",
        **dict.fromkeys(
            ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab", "params_b", "tied_embeddings")
        ),
        **dict.fromkeys(("micro_batch", "recompute", "zero_or_fsdp", "vpp", "attention", "interconnect")),
        framework="Megatron-Core",
        gpu="H100-SXM-80GB",
        gpus=16_384,
        seq_len=8192,
        tp=8,
        pp=16,
        dp=128,
        global_batch=2048,
    )
    (outcome,) = predict_rows((large,))
    assert outcome.result.skipped is None
    assert outcome.prediction is not None
    assert outcome.prediction.plan.mesh.ranks == 16_384


def test_hostile_text_stays_text_in_the_report(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    cells = LLAMA_ROW | {"id": hostile, "source": hostile, "framework": hostile, "notes": hostile, "model": hostile}
    page = render_validation_report(validate_table(write_csv(tmp_path / "t.csv", [cells])), table_name=hostile)
    assert hostile not in page
    assert "alert(1)</" not in page  # nor does it end a script of the page
    assert "&lt;script&gt;alert(1)" in page


def test_a_bad_cell_costs_its_row_alone(tmp_path: Path) -> None:
    bad = LLAMA_ROW | {"id": "bad", "gpus": "64-128", "layers": "forty"}
    result = validate_table(write_csv(tmp_path / "t.csv", [LLAMA_ROW, bad]))
    assert [found.skipped for found in result.rows] == [
        None,
        "column 'layers': given 'forty'; Input should be a valid integer, unable to parse string as an integer",
    ]
