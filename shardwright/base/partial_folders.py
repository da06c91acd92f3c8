"""Folders that become whole under another name, and what a kill has left of such."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""The end of the name of a file or folder that is not whole yet. Such a name begins with a dot."""


@contextlib.contextmanager
def partial_folder(final: Path, *, leftovers: str | None = None) -> Iterator[Path]:
    """Yield a new folder beside `final`, to be renamed once it is whole, and remove it at the end of the block where it was not.

    While the block lasts the folder is locked, so that what a kill has left can be told from it: folders beside `final` that match the
    pattern `leftovers` (by default those of its own name) and that no process holds are removed first.

    Raises:
        OSError: no folder can be made there.
    """
    parent = final.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(leftovers or f".{_escaped(final.name)}.*{PARTIAL}"):
        if left.is_dir() and not left.is_symlink():
            _remove_unless_held(left)
    partial, lock = _locked(final.name, parent)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _locked(name: str, parent: Path) -> tuple[Path, int]:
    """Make a folder and lock it. Where another process took it for a leftover in between, make another."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=PARTIAL, dir=parent))
        lock = os.open(partial, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: nobody else gets one there, either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.is_dir():
            return partial, lock
        os.close(lock)


def _remove_unless_held(left: Path) -> None:
    try:
        lock = os.open(left, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    except OSError:  # it is held, or nobody can tell
        pass
    finally:
        os.close(lock)
