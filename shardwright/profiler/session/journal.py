"""The measurements of a run so far, on disk line by line: a run that was killed at any moment continues from here."""

import fcntl
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from shardwright.base import SpecError
from shardwright.specs import Figure, LayerCheck, MachineFingerprint, NonNegativeFloat, NonNegativeInt, Point, Spec

_MAY_DIFFER = frozenset({"date", "clock_hz", "device_memory_bytes"})


class Header(Spec):
    """The first line: what is measured, and on what. A run continues only where these agree.

    `asked`: the request, by option. `measured`: the keys of the series and the names of the figure probes.
    """

    kind: Literal["shardwright-profile-journal"] = "shardwright-profile-journal"
    schema_version: Literal[1] = 1
    fingerprint: MachineFingerprint
    asked: dict[str, str] = Field(default_factory=dict)
    measured: tuple[str, ...] = ()

    def difference(self, now: "Header") -> str | None:
        """Return in words how the earlier run differs from the one `now`, or None where no difference matters."""
        here, there = self.fingerprint.model_dump(), now.fingerprint.model_dump()
        facts_here = {name: str(here[name]) for name in here if name not in _MAY_DIFFER} | self.asked
        facts_there = {name: str(there[name]) for name in there if name not in _MAY_DIFFER} | now.asked
        for name in facts_here | facts_there:
            before, after = facts_here.get(name, "none"), facts_there.get(name, "none")
            if before != after:
                return f"had {name} {before}, this one has {name} {after}"
        if gone := [key for key in self.measured if key not in now.measured]:
            return f"measured {_listed(gone)}, this one does not"
        if new := [key for key in now.measured if key not in self.measured]:
            return f"did not measure {_listed(new)}, this one does"
        return None


class MeasuredPoint(Spec):
    """A finished point of the series `key`. `outliers`: number of its repeats that were far off."""

    key: str
    point: Point
    outliers: NonNegativeInt = 0


class LeftOut(Spec):
    """A size of the series `key` that was not measured, and why."""

    key: str
    at: tuple[float, ...]
    reason: str


class Begun(Spec):
    """Sizes that are about to be measured side by side, as (key, size). A continued run finishes them first."""

    sizes: tuple[tuple[str, tuple[float, ...]], ...]


class MeasuredFigures(Spec):
    """Results of the figure probe `name`; `reason` where it gave none."""

    name: str
    figures: dict[str, Figure] = Field(default_factory=dict)
    reason: str | None = None


class CheckedLayers(Spec):
    """The layer checks."""

    layers: tuple[LayerCheck, ...]


class Record(Spec):
    """One line. `spent_seconds`: seconds of measuring until then, earlier runs included."""

    spent_seconds: NonNegativeFloat
    begun: Begun | None = None
    point: MeasuredPoint | None = None
    left_out: LeftOut | None = None
    figures: MeasuredFigures | None = None
    layers: CheckedLayers | None = None


Entry = Begun | MeasuredPoint | LeftOut | MeasuredFigures | CheckedLayers


class Journal:
    """An append-only file beside the profile that is being measured. Every line is on disk before the next is measured.

    A line that was cut off, and everything after it, count as not written.
    """

    def __init__(self, path: Path, handle: int, records: list[Record]) -> None:
        self._path = path
        self._handle = handle
        self.records = records

    @classmethod
    def open(cls, out: Path, header: Header, *, fresh: bool = False) -> Self:
        """Continue the journal of the profile `out`, or begin one; `fresh`: begin one in any case.

        Raises:
            SpecError: another machine, torch or request began it; another process is measuring into it; it cannot be
                written.
        """
        path = journal_path(out)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise SpecError(f"{path}: cannot be written (not a file); a journal has to lie there while measuring")
            _lock(path, handle, out)
            if fresh:
                os.ftruncate(handle, 0)
            records = _resume(path, handle, header)
            journal = cls(path, handle, records)
            if os.fstat(handle).st_size == 0:
                journal._append(header)
            return journal
        except BaseException as failure:
            os.close(handle)
            if isinstance(failure, OSError):
                raise _unwritable(path, failure) from None
            raise

    def append(self, entry: Entry, spent_seconds: float) -> None:
        """Write one line and wait until it is on disk.

        Raises:
            SpecError: the disk is full, or may not be written any more.
        """
        record = Record(spent_seconds=spent_seconds, **{_FIELDS[type(entry)]: entry})
        self._append(record)
        self.records.append(record)

    def close(self) -> None:
        """Keep the file, for a run that continues."""
        os.close(self._handle)

    def remove(self) -> None:
        """Remove the file. The profile is written completely, so there is nothing to continue."""
        with suppress(OSError):
            self._path.unlink()
        self.close()

    @property
    def path(self) -> Path:
        return self._path

    def _append(self, line: Spec) -> None:
        rest = line.model_dump_json(exclude_none=True).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError as error:
            raise _unwritable(self._path, error) from None


_FIELDS: dict[type[Spec], str] = {
    Begun: "begun",
    MeasuredPoint: "point",
    LeftOut: "left_out",
    MeasuredFigures: "figures",
    CheckedLayers: "layers",
}


def journal_path(out: Path) -> Path:
    """Return the path of the journal of the profile `out`."""
    return out.with_name(f".{out.name}.journal")


def _lock(path: Path, handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SpecError(
            f"{out}: another process is measuring this profile now ({path.name}); give another --out"
        ) from None
    except OSError:
        pass  # a network file system without locks: the user must avoid two runs at once


def _resume(path: Path, handle: int, header: Header) -> list[Record]:
    """Return the existing records, and cut the file after the last complete one."""
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        lines = file.read().split(b"\n")[:-1]  # after the last newline there is nothing, or a line that was cut off
    whole_bytes, records = 0, []
    for number, line in enumerate(lines):
        try:
            if number == 0:
                _agree(path, Header.model_validate_json(line), header)
            else:
                records.append(Record.model_validate_json(line))
        except SpecError:
            raise
        except ValueError:
            if number == 0:
                _refuse_stranger(path, line)
            break
        whole_bytes += len(line) + 1
    os.ftruncate(handle, whole_bytes)
    return records


def _agree(path: Path, before: Header, now: Header) -> None:
    if difference := before.difference(now):
        raise SpecError(
            f"{path}: the run that was cut short {difference}; go on as it began, or measure anew with --fresh"
        )


def _refuse_stranger(path: Path, line: bytes) -> None:
    """Refuse a first line that is JSON. It was not cut off: it is of a newer version, or not of a journal."""
    try:
        json.loads(line)
    except ValueError:
        return
    raise SpecError(f"{path}: is not a journal that this shardwright can read; measure anew with --fresh")


def _listed(keys: list[str]) -> str:
    more = len(keys) - 1
    return keys[0] + (f" and {more} more" if more else "")


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(f"{path}: cannot be written ({error.strerror or error})")
