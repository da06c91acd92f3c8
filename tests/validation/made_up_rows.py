"""Table rows for tests: one complete run, any change to it, and what the reader makes of it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardwright.validation.layout.plans import RowPlans, plans_of_row
from shardwright.validation.rows.measured_run import MeasuredRun, SkippedRun, measured_run
from shardwright.validation.rows.stack import software_of_row
from shardwright.validation.table.table import TableRow
from tests.validation.fake_costs import standard_node

LLAMA_ROW: dict[str, object] = {
    "id": "llama-1",
    "source": "someone/bench README.md@abc line 1",
    "framework": "torchtitan (PyTorch FSDP2)",
    "model": "Llama-2-13B",
    "params_b": 13.0,
    "layers": 40,
    "hidden": 5120,
    "heads": 40,
    "kv_heads": 40,
    "ffn_hidden": 13824,
    "vocab": 32000,
    "tied_embeddings": False,
    "seq_len": 4096,
    "gpu": "A100-SXM-80GB",
    "gpus": 64,
    "gpus_per_node": 8,
    "precision": "bf16",
    "tp": 1,
    "pp": 1,
    "dp": 64,
    "cp": 1,
    "zero_or_fsdp": "fsdp-full",
    "micro_batch": 2,
    "global_batch": 128,
    "recompute": "none",
    "offload": "none",
    "attention": "flash",
    "metric_name": "tokens_per_s_per_gpu",
    "metric_value": 2162.0,
    "metric_unit": "tokens/s/GPU",
}


def row(**changes: object) -> TableRow:
    """The Llama run with `changes`."""
    return TableRow.model_validate(LLAMA_ROW | changes)


def run(**changes: object) -> MeasuredRun:
    """The row with `changes` as a run on the nodes of the fake catalog."""
    found = measured_run(row(**changes), standard_node)
    assert isinstance(found, MeasuredRun), found
    return found


def skipped(**changes: object) -> SkippedRun:
    """The row with `changes`, which is no run."""
    found = measured_run(row(**changes), standard_node)
    assert isinstance(found, SkippedRun), found
    return found


def plans_of(given: TableRow, layers: int = 40) -> tuple[RowPlans, list[str]]:
    """The plans of a row under the row's own software."""
    return plans_of_row(given, software_of_row(given).family, layers)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows under every column of the schema; absent and None cells are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(TableRow.model_fields))
        writer.writeheader()
        for cells in rows:
            writer.writerow({name: _cell(value) for name, value in cells.items()})
    return path


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
