"""One row of a table of measured runs, read once: its model, cluster, training and the plans that it may have run."""

from .cluster import StandardNode
from .memory_reading import reading_of_row
from .setup import RowSetup, setup_of_row
from .source import short_source_name, source_name
from .stack import framework_family, is_deepspeed_zero3
from .table import SkippedRowError, TableRow, read_table

__all__ = [
    "RowSetup",
    "SkippedRowError",
    "StandardNode",
    "TableRow",
    "framework_family",
    "is_deepspeed_zero3",
    "read_table",
    "reading_of_row",
    "setup_of_row",
    "short_source_name",
    "source_name",
]
