"""A table of measured training runs: one typed row each, in the schema of `published/README.md`."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from shardwright.base import SpecError, check_values, nearest
from shardwright.specs import PositiveFloat, PositiveInt, Spec

from .settings import RowSettings, parse_settings

_COMMIT = re.compile(r"@[0-9a-f]{3,40}\b")
_LINES = re.compile(r"\blines?\s+\d+(?:\s*[-,]\s*\d+)*")
_REMARK = re.compile(r"\([^()]*\)")
_SECTION = re.compile(r"\[[^\[\]]*\]")


class SkippedRowError(Exception):
    """This row has no prediction; the message is the reason, worded alike for rows of the same kind."""


class TableRow(Spec):
    """One measured run as its source states it; None is unknown, never zero.

    `heads`, `kv_heads`, `ffn_hidden` and `vocab` describe the model; `tp`, `pp`, `vpp`, `dp`, `cp`, `ep` the mesh;
    `micro_batch` counts sequences per microbatch per data-parallel rank, `global_batch` sequences per step.
    No layer or batch count of a real run is near the limits; they keep a typing mistake from costing minutes.
    `metric_value` is as published, in `metric_unit`; `peak_mem_gb` is in 1e9 bytes. `memory_reading`: what was read
    of the memory, tensors, torch's reserve or what nvidia-smi shows. `stack`: a named stack, where the release is known; `settings`: what notes or recipe say beyond the columns.
    """

    id: str = Field(min_length=1)
    source: str | None = None
    provenance: str | None = None
    year: PositiveInt | None = None
    framework: str | None = None
    model: str | None
    params_b: PositiveFloat | None = None
    layers: Annotated[PositiveInt, Field(le=2_000)] | None
    hidden: PositiveInt | None
    heads: PositiveInt | None
    kv_heads: PositiveInt | None
    ffn_hidden: PositiveInt | None
    vocab: PositiveInt | None
    tied_embeddings: bool | None = None
    seq_len: PositiveInt | None
    experts: PositiveInt | None = None
    topk: PositiveInt | None = None
    moe_ffn: PositiveInt | None = None
    gpu: str | None
    gpus: PositiveInt | None
    gpus_per_node: PositiveInt | None = None
    interconnect: str | None = None
    precision: str | None
    tp: PositiveInt | None
    sp: bool | None = None
    pp: PositiveInt | None
    vpp: PositiveInt | None = None
    dp: PositiveInt | None
    cp: PositiveInt | None = None
    ep: PositiveInt | None = None
    zero_or_fsdp: str | None
    micro_batch: PositiveInt | None
    global_batch: Annotated[PositiveInt, Field(le=10_000_000)] | None
    recompute: str | None
    offload: str | None = None
    attention: str | None = None
    metric_name: str | None
    metric_value: PositiveFloat | None
    metric_unit: str | None
    flops_convention: str | None = None
    peak_mem_gb: PositiveFloat | None = None
    notes: str | None = None
    fields_not_read: str | None = None
    core_complete: bool | None = None
    fully_complete: bool | None = None
    has_memory: bool | None = None
    reason: str | None = None
    memory_reading: Literal["allocated", "reserved", "nvidia-smi"] | None = None
    stack: str | None = None
    settings: RowSettings = RowSettings()

    @field_validator("settings", mode="before")
    @classmethod
    def _read_settings(cls, cell: object) -> object:
        return parse_settings(cell or "") if isinstance(cell, str | None) else cell


_COLUMNS = tuple(TableRow.model_fields)
_NAMED = 16  # of all columns, in an error
_REQUIRED = tuple(name for name, field in TableRow.model_fields.items() if field.is_required())


def read_table(path: Path) -> tuple[TableRow, ...]:
    """Read every row of a CSV table in UTF-8.

    A value that its column cannot hold affects only its row: it is read as unknown, and `reason` says what is wrong.

    Raises:
        SpecError: the file is missing, is not CSV, lacks a column, has one that is unknown, or a row (counted from 1
            after the header) is cut off, has no id or repeats one.
    """
    if path.is_char_device():
        raise SpecError(f"{path}: is a device, not a file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = _check_header(path, next(lines, None))
            rows = tuple(_row(path, number, header, cells) for number, cells in _numbered(path, lines))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not a text file in UTF-8") from None
    if not rows:
        raise SpecError(f"{path}: holds a header and no row")
    _refuse_repeats(path, rows)
    return rows


def _known_columns() -> str:
    return f"{', '.join(_COLUMNS[:_NAMED])} and {len(_COLUMNS) - _NAMED} more; docs/validation.md says where all are described"


def _check_header(path: Path, header: Sequence[str] | None) -> list[str]:
    if not header:
        raise SpecError(f"{path}: is empty; the first line must name the columns: {_known_columns()}")
    names = [name.strip() for name in header]
    for name in names:
        if name not in _COLUMNS:
            raise SpecError(f"{path}: unknown column '{name}'.{nearest(name, _COLUMNS)} Known: {_known_columns()}")
        if names.count(name) > 1:
            raise SpecError(f"{path}: column '{name}' appears twice in the header")
    if missing := [name for name in _REQUIRED if name not in names]:
        raise SpecError(f"{path}: column {', '.join(repr(name) for name in missing)} is missing from the header")
    return names


def _numbered(path: Path, lines: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise SpecError(f"{path}: row {number + 1} is not valid CSV ({error}); is the file complete?") from None
        if cells:
            number += 1
            yield number, cells


def _row(path: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> TableRow:
    if len(cells) != len(header):
        hint = "; is the file complete?" if len(cells) < len(header) else "; is a comma in a cell not quoted?"
        raise SpecError(f"{path}: row {number} has {len(cells)} cells for {len(header)} columns{hint}")
    check_values(dict(zip(header, cells, strict=True)), f"{path}: row {number}")
    values = {name: text for name, cell in zip(header, cells, strict=True) if (text := cell.strip())}
    given = {name: values.get(name) for name in header}
    if not given.get("id"):
        raise SpecError(f"{path}: row {number} has no id; give each row its own")
    try:
        return TableRow.model_validate(given)
    except ValidationError as error:
        faults = error.errors()
        first, bad = faults[0], {str(fault["loc"][0]) for fault in faults}
        message = first["msg"].removeprefix("Value error, ")
        reason = f"column '{first['loc'][0]}': given {first['input']!r}; {message}"
        kept = {name: None if name in bad else text for name, text in given.items()}
        return TableRow.model_validate(kept | {"reason": reason})


def _refuse_repeats(path: Path, rows: Sequence[TableRow]) -> None:
    first_seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if (earlier := first_seen.setdefault(row.id, number)) != number:
            raise SpecError(f"{path}: rows {earlier} and {number} have the same id '{row.id}'; give each row its own")


def source_name(source: str | None) -> str:
    """A `source` cell without commit, lines and remarks: the document, and the table or [section] in it if it names one.

    "o/r docs/a.md@1a2b3c4d line 7 [Large, on 8]" is "o/r docs/a.md [Large, on 8]"; "arXiv 2104.04473 Table 2" is itself.
    """
    cited = (source or "").partition(";")[0]
    section = _SECTION.search(cited)
    document = _SECTION.sub(" ", cited)
    for noise in (_COMMIT, _REMARK, _LINES):
        document = noise.sub(" ", document)
    return " ".join(f"{document} {section[0] if section else ''}".split()) or "unknown"


def short_source_name(name: str) -> str:
    """A name of `source_name` for a figure's label: without the repository's owner and the folders above the last."""
    repository, _, rest = name.partition(" ")
    if "/" not in repository:
        return name
    document, _, place = rest.partition(" ")
    shown = "/".join(document.split("/")[-2:])
    return " ".join(f"{repository.rpartition('/')[2]} {shown} {place}".split())
