"""The pipeline schedule of a row, read from chunks and remarks, because the schema has no column for it."""

import re
from typing import NamedTuple, get_args

from shardwright.specs import ScheduleName

from .stack import framework_family
from .table import SkippedRowError, TableRow

_INTERLEAVING_FAMILIES = ("Megatron-LM", "Megatron-Core", "NeMo")
# Names in use, specific ones first; each with the schedule's name and its chunks on a rank.
_NAMED: tuple[tuple[str, str, int | None], ...] = (
    (r"\bdual ?pipe", "dualpipe-v", 2),
    (r"\bzb-?v\b", "zb-v", 2),
    (r"\bzb-?h?1\b|zero[ -]?bubble", "zb-h1", 1),
    (r"\bg-?pipe\b|\bafab\b|all[ -]forward[ -]all[ -]backward", "gpipe", 1),
    (r"interleaved[ -]?1f1b", "interleaved-1f1b", None),
    (r"\b1f1b\b", "1f1b", 1),
)


class PipelineChoice(NamedTuple):
    """A schedule, and how many stages each rank holds."""

    schedule: ScheduleName
    stages_per_rank: int


def pipelines_of_row(row: TableRow, pp: int, layers: int) -> tuple[PipelineChoice, ...]:
    """Every schedule that `row` can mean, the plainest first; open stage counts are those that divide the layers.

    `vpp` counts stages on a rank. If it is empty and no remark says more, Megatron may have interleaved or not.

    Raises:
        SkippedRowError: the row names a schedule that this version does not have.
    """
    if pp == 1:
        return (PipelineChoice("1f1b", 1),)
    name, chunks = _stated(row)
    if name not in (None, *get_args(ScheduleName)):
        raise SkippedRowError(f"schedule {name} is not available in this version")
    counts = _chunk_counts(row, pp, layers)
    if name == "interleaved-1f1b":
        counts = [count for count in counts if count > 1] or [2]
    elif chunks is not None:
        counts = [chunks]
    return tuple(PipelineChoice(_schedule(name, count), count) for count in counts)


def _stated(row: TableRow) -> tuple[str | None, int | None]:
    remarks = f"{row.framework or ''}; {row.notes or ''}".lower()
    found = ((name, chunks) for pattern, name, chunks in _NAMED if re.search(pattern, remarks))
    name, chunks = next(found, (None, None))
    if name == "1f1b" and row.vpp is not None:
        return None, None  # "1F1B" is also said of the interleaved kind
    return name, chunks


def _chunk_counts(row: TableRow, pp: int, layers: int) -> list[int]:
    if row.vpp is not None:
        return [row.vpp]
    named_interleaved = _stated(row)[0] == "interleaved-1f1b"
    if not named_interleaved and framework_family(row) not in _INTERLEAVING_FAMILIES:
        return [1]
    return [1, *(count for count in range(2, layers // pp + 1) if layers % (pp * count) == 0)]


def _schedule(name: str | None, chunks: int) -> ScheduleName:
    for known in get_args(ScheduleName):
        if name == known and name not in ("1f1b", "interleaved-1f1b"):
            schedule: ScheduleName = known
            return schedule
    return "interleaved-1f1b" if chunks > 1 else "1f1b"
