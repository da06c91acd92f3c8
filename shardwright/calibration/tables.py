"""The published tables, and which of their rows the model is built with."""

from collections.abc import Iterable
from pathlib import Path

from shardwright.validation.rows import trains_adapters
from shardwright.validation.table import TableRow, read_table

FOLDER = Path(__file__).parent / "published"
TABLES = (FOLDER / "training.csv", FOLDER / "training-2.csv")
# Sources by the first part of a row's id. They score predictions and are never read row by row; they were chosen before
# anything was changed with training-2.csv in view.
PUT_AWAY = ("torchao", "vocabpp", "msswift", "nemodoc", "mlperf41", "mlperf50")


def source_of(row: TableRow) -> str:
    """The first part of the row's id: `dgxc` of `dgxc-012`."""
    return row.id.rpartition("-")[0] or row.id


def is_put_away(row: TableRow) -> bool:
    """Whether the row may only be scored."""
    return source_of(row) in PUT_AWAY


def used_rows(tables: Iterable[Path] = TABLES) -> tuple[TableRow, ...]:
    """The rows that the model is built with: neither put away nor of adapters."""
    rows = (row for path in tables for row in read_table(path))
    return tuple(row for row in rows if not is_put_away(row) and not trains_adapters(row))


def adapter_rows(tables: Iterable[Path] = TABLES) -> tuple[TableRow, ...]:
    """The rows of adapters that may be read: those not put away. Nothing is fitted to them."""
    rows = (row for path in tables for row in read_table(path))
    return tuple(row for row in rows if not is_put_away(row) and trains_adapters(row))
