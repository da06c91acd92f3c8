"""A table of measured runs in its schema: the columns, the settings in a cell, and the names of sources."""

from .settings import RowSettings
from .table import SkippedRowError, TableRow, read_table, short_source_name, source_name

__all__ = [
    "RowSettings",
    "SkippedRowError",
    "TableRow",
    "read_table",
    "short_source_name",
    "source_name",
]
