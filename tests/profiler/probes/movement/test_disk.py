"""Disks: the bytes really go there and come back, nothing is left behind, and what does not work is one line."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardwright.profiler.probes.movement.disk import DiskMode, DiskOperation, DiskProbe, ScratchFile, disk_probes
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import UnavailableError, Work

MIB = 2**20


def _work(folder: Path, operation: DiskOperation, mode: DiskMode, size: float) -> tuple[Work, ScratchFile]:
    file = ScratchFile(folder)
    return DiskProbe(operation, mode, file).prepare((size,), CpuMachine()), file


def test_both_ways_direct_and_buffered_on_one_file(tmp_path: Path) -> None:
    probes = disk_probes(tmp_path)
    assert [(probe.operation, probe.variant) for probe in probes] == [
        ("disk_read", "direct"),
        ("disk_write", "direct"),
        ("disk_read", "buffered"),
        ("disk_write", "buffered"),
    ]
    assert len({id(probe._file) for probe in probes}) == 1


class Seen:
    """What a piece of work asked of the system, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        self.direct: set[bool] = set()
        for name in ("preadv", "pwritev"):
            monkeypatch.setattr(os, name, self._transfer(name, getattr(os, name)))
        real_sync, real_advise = os.fsync, os.posix_fadvise

        def fsync(descriptor: int) -> None:
            self.calls.append(("fsync", 0))
            real_sync(descriptor)

        def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
            assert (offset, advice) == (0, os.POSIX_FADV_DONTNEED)
            self.calls.append(("drop", length))
            real_advise(descriptor, offset, length, advice)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "posix_fadvise", advise)

    def _transfer(self, name: str, real: Any) -> Any:
        def transfer(descriptor: int, buffers: list[memoryview], offset: int) -> int:
            self.direct.add(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
            moved: int = real(descriptor, buffers, offset)
            self.calls.append((name, moved))
            assert offset == sum(size for each, size in self.calls[:-1] if each == name)
            return moved

        return transfer


@pytest.mark.parametrize(
    ("operation", "mode", "calls"),
    [
        (
            "disk_read",
            "buffered",
            [("drop", 40 * MIB), ("preadv", 16 * MIB), ("preadv", 16 * MIB), ("preadv", 8 * MIB)],
        ),
        ("disk_read", "direct", [("preadv", 16 * MIB), ("preadv", 16 * MIB), ("preadv", 8 * MIB)]),
        ("disk_write", "direct", [("pwritev", 16 * MIB), ("pwritev", 16 * MIB), ("pwritev", 8 * MIB)]),
        ("disk_write", "buffered", [("pwritev", 16 * MIB), ("pwritev", 16 * MIB), ("pwritev", 8 * MIB), ("fsync", 0)]),
    ],
)
def test_what_is_timed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: DiskOperation,
    mode: DiskMode,
    calls: list[tuple[str, int]],
) -> None:
    """Every byte once; buffered reads from a cache that was emptied, buffered writes until the disk has them."""
    work, _file = _work(tmp_path, operation, mode, 40 * MIB)
    seen = Seen(monkeypatch)
    work()
    assert seen.calls == calls
    assert seen.direct == {mode == "direct"}


def test_what_is_written_is_on_the_file(tmp_path: Path) -> None:
    work, file = _work(tmp_path, "disk_write", "direct", MIB)
    descriptor = file.descriptor("buffered", MIB)
    before = os.pread(descriptor, MIB, 0)
    work()
    after = os.pread(descriptor, MIB, 0)
    assert len(before) == len(after) == MIB
    assert before != after
    assert len(set(before)) > 200, "nothing that could be compressed"


def test_the_file_grows_to_the_largest_size_and_no_further(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path)
    for size in (MIB, 4 * MIB, 2 * MIB):
        descriptor = file.descriptor("buffered", size)
    assert os.fstat(descriptor).st_size == 4 * MIB


def test_nothing_has_a_name(tmp_path: Path) -> None:
    work, _file = _work(tmp_path, "disk_write", "buffered", MIB)
    work()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from shardwright.profiler.probes.movement.disk import ScratchFile\n"
        f"file = ScratchFile(Path({str(tmp_path)!r}))\n"
        "file.descriptor('buffered', 2**20); print('there', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_for_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100 * MIB, 98 * MIB, 2 * MIB))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("wrote to a disk that is nearly full"))
    with pytest.raises(UnavailableError, match="has 2 MiB free, and the scratch file takes 2 MiB"):
        _work(tmp_path, "disk_read", "buffered", 2 * MIB)


def test_a_disk_that_fills_up_is_one_line_and_its_space_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ScratchFile(tmp_path)
    descriptor = file.descriptor("buffered", MIB)
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= 2 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match=f"^{tmp_path}: its disk is full$"):
        file.descriptor("buffered", 4 * MIB)
    assert os.fstat(descriptor).st_size == MIB
    monkeypatch.setattr(os, "pwrite", real)
    file.descriptor("buffered", 4 * MIB)
    assert os.fstat(descriptor).st_size == 4 * MIB


def test_a_disk_that_fails_while_it_is_timed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _file = _work(tmp_path, "disk_write", "buffered", MIB)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", broken)
    with pytest.raises(UnavailableError, match=f"^{tmp_path}: Input/output error$"):
        work()


def test_a_file_that_was_cut_short_is_one_line(tmp_path: Path) -> None:
    """Rather than reading nothing for ever."""
    work, file = _work(tmp_path, "disk_read", "buffered", 2 * MIB)
    os.ftruncate(file.descriptor("buffered", MIB), MIB)
    with pytest.raises(UnavailableError, match=f"the scratch file ends after {MIB} bytes"):
        work()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "may not be written to"),
        (errno.EROFS, "is on a file system that is read-only"),
        (errno.EDQUOT, "its quota of disk space is used up"),
        (errno.ELOOP, "Too many levels of symbolic links"),
    ],
)
def test_a_folder_that_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refused(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(UnavailableError, match=f"^{tmp_path}: {words}$"):
        _work(tmp_path, "disk_read", "buffered", MIB)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no such folder"):
        _work(tmp_path / "none", "disk_read", "buffered", MIB)
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="is not a folder"):
        _work(tmp_path / "file", "disk_read", "buffered", MIB)


def test_a_file_system_without_direct_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UnavailableError, match=r"its file system refuses direct access \(Invalid argument\)"):
        _work(tmp_path, "disk_read", "direct", MIB)
    _work(tmp_path, "disk_read", "buffered", MIB)


def test_sizes(tmp_path: Path) -> None:
    probe = DiskProbe("disk_read", "direct", ScratchFile(tmp_path))
    assert probe.between((float(MIB),), (16.0 * MIB,)) == (4.0 * MIB,)
    assert probe.between((65536.0,), (131072.0,)) is None
    assert all(at[0] % 65536 == 0 for at in probe.first_sizes())
    assert probe.needed_bytes((float(MIB),)) == MIB
    assert probe.needed_bytes((256.0 * MIB,)) == 16 * MIB
