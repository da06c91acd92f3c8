"""What everything stands on: array types, files that are read and written whole, the errors that are a user's to mend, units for
people, whole-number arithmetic, and processes of this machine. Imports nothing of this project."""

from . import units
from .amounts import SECONDS_PER_DAY, SECONDS_PER_HOUR, read_deadline, read_tokens
from .arrays import Array, FloatArray, IntArray, Number, distinct
from .content import files_digest, rows_digest
from .errors import (
    InfeasibleError,
    RanksHungError,
    RanksLostError,
    RunFailedError,
    RunStoppedError,
    SpecError,
    install,
    nearest,
)
from .failures import Failure, first_failure, first_line, record_failure
from .files import read_json, read_text, write_whole
from .lifeline import PARENT, end_with_parent
from .numbers import GIB, divisors, listed, read_count
from .partial_folders import PARTIAL, partial_folder
from .plain import check_values, one_line, shown
from .processes import CONTROL_GROUP, cpu_model, ended_by_sigterm, return_freed_memory, threads_per_rank, usable_cores
from .stopping import STOPPED, StopRequest

__all__ = [
    "CONTROL_GROUP",
    "GIB",
    "PARENT",
    "PARTIAL",
    "SECONDS_PER_DAY",
    "SECONDS_PER_HOUR",
    "STOPPED",
    "Array",
    "Failure",
    "FloatArray",
    "InfeasibleError",
    "IntArray",
    "Number",
    "RanksHungError",
    "RanksLostError",
    "RunFailedError",
    "RunStoppedError",
    "SpecError",
    "StopRequest",
    "check_values",
    "cpu_model",
    "distinct",
    "divisors",
    "end_with_parent",
    "ended_by_sigterm",
    "files_digest",
    "first_failure",
    "first_line",
    "install",
    "listed",
    "nearest",
    "one_line",
    "partial_folder",
    "read_count",
    "read_deadline",
    "read_json",
    "read_text",
    "read_tokens",
    "record_failure",
    "return_freed_memory",
    "rows_digest",
    "shown",
    "threads_per_rank",
    "units",
    "usable_cores",
    "write_whole",
]
