"""Faults at every operation of a checkpoint's files: whatever fails, what counts as a checkpoint is whole, and one always is."""

import errno
import functools
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from shardwright.executor.training import checkpoint, manifest
from shardwright.executor.training.manifest import complete_checkpoints, damaged_file, read_manifest
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan
from tests.parity.worlds import RankFailedError

ONE = tiny(plan((layers(),)))
TWO = tiny(plan((layers(zero=3),), dp_shard=2))
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Those that Python reports to audit hooks (docs.python.org, audit events table) and that change a folder or open a file."""
STEPS, BAD_STEP = 4, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


class Faults:
    """Counts the operations on files of the checkpoints from the third one on, and lets one of them fail, or kills the process there."""

    def __init__(self, folder: Path, fails_at: int, *, kills: bool) -> None:
        self.folder, self.fails_at, self.kills = str(folder / "checkpoints"), fails_at, kills
        self.count, self.active = 0, False

    def install(self) -> None:
        sys.addaudithook(self.audit)
        own = os.fsync

        def sync(descriptor: int) -> None:
            self.step()
            own(descriptor)

        mock.patch.object(os, "fsync", sync).start()
        written = checkpoint.write_checkpoint

        def third(folder: Path, tensors: object, about: manifest.Manifest, **named: object) -> Path:
            self.active = about.step == BAD_STEP
            return written(folder, tensors, about, **named)  # type: ignore[arg-type]

        mock.patch("shardwright.executor.training.saver.write_checkpoint", third).start()

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.active and event in OPERATIONS and self.folder in str(arguments[0]):
            self.step()

    def step(self) -> None:
        if not self.active:
            return
        self.count += 1
        if self.count == self.fails_at:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disturb(folder: Path, fails_at: int, kills: bool) -> None:
    Faults(folder, fails_at, kills=kills).install()


def whole(folder: Path) -> list[int]:
    """The steps of the checkpoints that count; each must be whole."""
    found = complete_checkpoints(folder / "checkpoints")
    for path in found:
        assert damaged_file(path, read_manifest(path, ONE)) is None
    return [int(path.name.removeprefix("step-")) for path in found]


def trained(folder: Path, data: Path, before: Callable[[], None] | None) -> bool:
    """Whether the run came to its end."""
    run = options(folder, data=data, steps=STEPS, checkpoint_every=1, keep_checkpoints=2)
    try:
        losses(ONE, run, before=before)
    except RankFailedError as error:
        told = str(error)
        if "cannot be written" not in told and "died with exit code -9" not in told:
            raise
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kills", [False, True], ids=["no space", "killed"])
def test_no_operation_that_fails_leaves_a_torn_checkpoint(kills: bool, tmp_path: Path, data: Path) -> None:
    """The run is started again after each fault, and goes on from what is there."""
    faults = 0
    for number in range(1, 60):
        folder = tmp_path / str(number)
        came_through = trained(folder, data, functools.partial(disturb, folder, number, kills))
        steps = whole(folder)
        assert steps, f"operation {number} left no checkpoint"
        assert steps[-1] in ((STEPS,) if came_through else (BAD_STEP - 1, BAD_STEP))
        if not came_through:
            faults += 1
            assert trained(folder, data, None)
            assert whole(folder) == [STEPS - 1, STEPS]
            assert not any((folder / "checkpoints").glob(".*"))
        elif steps == [STEPS - 1, STEPS] and number > faults + 8:
            break  # operations beyond the last of a save, or of the removal of old files, whose failure nobody needs to know
    assert faults >= 8, "few operations were disturbed"


def let_files_end_early(most_bytes: int) -> None:
    """As on a disk that fills up in the middle of a file. From the third checkpoint on."""
    written = checkpoint.write_checkpoint

    def third(folder: Path, tensors: object, about: manifest.Manifest, **named: object) -> Path:
        if about.step == BAD_STEP:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond it then fails
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        return written(folder, tensors, about, **named)  # type: ignore[arg-type]

    mock.patch("shardwright.executor.training.saver.write_checkpoint", third).start()


@pytest.mark.parametrize("most_bytes", [0, 1, 100, 4_096, 50_000])
def test_a_file_that_ends_early_is_no_checkpoint(most_bytes: int, tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=STEPS, checkpoint_every=1, keep_checkpoints=2)
    with pytest.raises(RankFailedError, match=r"step-000003: cannot be written \(.*File too large"):
        losses(TWO, run, before=functools.partial(let_files_end_early, most_bytes))
    assert [path.name for path in complete_checkpoints(run.out / "checkpoints")] == ["step-000001", "step-000002"]
    assert (
        damaged_file(
            run.out / "checkpoints" / "step-000002", read_manifest(run.out / "checkpoints" / "step-000002", TWO)
        )
        is None
    )
