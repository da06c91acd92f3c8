"""The folder of profiles, and the newest one that fits a machine."""

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from shardwright.base import SpecError, read_json
from shardwright.specs import MachineFingerprint, Profile, read_profile

_SUFFIX, _JOURNAL = ".json", ".journal"
_MEMORY_TOLERANCE = 0.06  # the driver's total and the process's view differ by a reserve


class BrokenProfileWarning(UserWarning):
    """A file among the profiles is not a complete profile; it is skipped."""


@dataclass(frozen=True)
class MachineKey:
    """Properties that decide whether a profile fits a machine.

    `torch`: its version, None where it is not installed. `ranks`: None for any number. The rates of a CPU depend on how
    many `ranks` share its `cores`. A GPU belongs to one rank, so these don't count there. Its memory counts, because
    parts that differ in it share a name.
    """

    kind: Literal["gpu", "cpu"]
    device: str
    device_memory_bytes: float
    cores: int
    ranks: int | None
    torch: str | None

    @classmethod
    def of(cls, fingerprint: MachineFingerprint) -> Self:
        return cls(
            kind=fingerprint.kind,
            device=fingerprint.device,
            device_memory_bytes=fingerprint.device_memory_bytes,
            cores=fingerprint.cores,
            ranks=fingerprint.ranks,
            torch=fingerprint.torch,
        )

    @property
    def shared_by_ranks(self) -> bool:
        """Whether the ranks of a node share the device, as in `MachineFingerprint`."""
        return self.kind == "cpu"

    def fits(self, other: "MachineKey") -> bool:
        """Whether measurements on `other` are valid here.

        The device's full name must agree (an H100 PCIe is another device), and torch's minor version. A CPU must also
        agree in cores and ranks, a GPU in memory.
        """
        if (self.kind, self.device.casefold()) != (other.kind, other.device.casefold()):
            return False
        if self.torch and other.torch and _minor(self.torch) != _minor(other.torch):
            return False
        if self.shared_by_ranks:
            return self.cores == other.cores and self.ranks in (None, other.ranks)
        difference = abs(self.device_memory_bytes - other.device_memory_bytes)
        return difference <= _MEMORY_TOLERANCE * self.device_memory_bytes

    @property
    def words(self) -> str:
        """Return `Xeon, 2 ranks, torch 2.13`, as in names of files."""
        shared = f", {self.ranks} rank{'s' * (self.ranks > 1)}" if self.shared_by_ranks and self.ranks else ""
        return f"{self.device}{shared}{f', torch {_minor(self.torch)}' if self.torch else ''}"


def store_folder() -> Path:
    """Return `shardwright/profiles` in the user's data folder. It need not exist."""
    named = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(named) if Path(named).is_absolute() else Path.home() / ".local" / "share"
    return folder / "shardwright" / "profiles"


def default_path(key: MachineKey, day: str) -> Path:
    """Return the path of a new profile of this machine in the store.

    A profile that was cut short is continued. Otherwise the name is a free one of the machine and the day
    (`2026-01-02`), numbered from the second profile of a day on.
    """
    folder, stem = store_folder(), _stem(key)
    cut_short = [path for path in _journals(folder) if path.name.startswith(f"{stem}-")]
    return max(cut_short, default=None, key=lambda path: path.name) or _free_name(folder, f"{stem}-{day}")


def _journals(folder: Path) -> list[Path]:
    """Return the profiles whose journals are there: `.NAME.journal` belongs to `NAME` (journal.py)."""
    return [folder / path.name[1 : -len(_JOURNAL)] for path in folder.glob(f".*{_SUFFIX}{_JOURNAL}")]


def newest_fitting(key: MachineKey) -> tuple[Path, Profile] | None:
    """Return the newest fitting profile of the store, and its file.

    Among those of one day complete ones come first. Profiles that were cut short and may continue come after all
    others. A file that can't be read completely is skipped with a `BrokenProfileWarning`.
    """
    for path in _newest_first(key):
        try:
            return path, read_profile(path)
        except SpecError as error:
            _warn(error)
    return None


def _newest_first(key: MachineKey) -> list[Path]:
    """Return the files whose fingerprint fits, newest first, without checking all their points."""
    found: list[tuple[tuple[bool, str, bool, str, str], Path]] = []
    cut_short = set(_journals(store_folder()))
    for path, data in _stored():
        try:
            fingerprint = MachineFingerprint.parse(data.get("fingerprint"), source=f"{path}: fingerprint")
        except SpecError as error:
            _warn(error)
            continue
        if key.fits(MachineKey.of(fingerprint)):
            whole = data.get("complete") is not False
            age = (path not in cut_short, fingerprint.date[:10], whole, fingerprint.date, path.name)
            found.append((age, path))
    return [path for _, path in sorted(found, reverse=True)]


def _stored() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files of the store that say they are profiles. Hidden files are being written."""
    try:
        names = sorted(os.listdir(store_folder()))
    except OSError:
        return
    for name in names:
        path = store_folder() / name
        if name.startswith(".") or not name.endswith(_SUFFIX) or not path.is_file():
            continue
        try:
            data = read_json(path)
            if not isinstance(data, dict) or data.get("kind") != "shardwright-profile":
                raise SpecError(f"{path}: is not a profile file")
        except SpecError as error:
            _warn(error)
            continue
        yield path, data


def _warn(error: SpecError) -> None:
    warnings.warn(BrokenProfileWarning(f"{error}; left out"), stacklevel=3)


def _free_name(folder: Path, stem: str) -> Path:
    number, path = 1, folder / f"{stem}{_SUFFIX}"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{_SUFFIX}"
    return path


def _stem(key: MachineKey) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", key.words.lower()).strip("-")[:120]


def _minor(version: str) -> str:
    """Return `2.13` for `2.13.0+cpu`."""
    return ".".join(version.partition("+")[0].split(".")[:2])
