"""Checkpoints that are written beside the steps."""

import errno
import functools
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from shardwright.executor.training import checkpoint, saver
from shardwright.executor.training.manifest import complete_checkpoints, damaged_file, read_manifest
from shardwright.specs.results.measurement import read_measurement
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan
from tests.parity.worlds import RankFailedError

FSDP = plan((layers(zero=3),), dp_shard=2)
PLANS = {
    "fsdp": FSDP,
    "tp": plan((layers(),), tp=2),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "offload": plan((layers(zero=3),), dp_shard=2, offload=True),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


def write_slowly() -> None:
    """The next steps are over before a checkpoint of this one is written."""
    own = checkpoint.write_checkpoint

    def slow(*given: Any, **named: Any) -> Path:
        time.sleep(0.5)
        return own(*given, **named)

    mock.patch.object(saver, "write_checkpoint", slow).start()


def copy_nothing() -> None:
    """A fault: what is written is what the next steps train on."""
    mock.patch.object(saver.Saver, "_copied", lambda self, tensors: tensors).start()
    write_slowly()


@pytest.mark.parametrize("name", PLANS)
def test_what_is_written_beside_the_steps_is_the_state_of_its_step(name: str, tmp_path: Path, data: Path) -> None:
    """To the last digit, though four more steps are taken while it is written."""
    plan_file = tiny(PLANS[name])
    run = options(tmp_path / "run", data=data, steps=8, checkpoint_every=4, checkpoint="async")
    expected = losses(plan_file, run, before=write_slowly)
    again = options(
        tmp_path / "again",
        data=data,
        steps=8,
        checkpoint_every=None,
        resume_from=run.out / "checkpoints" / "step-000004",
    )
    assert losses(plan_file, again) == expected[4:]


def test_without_a_copy_it_would_not_be(tmp_path: Path, data: Path) -> None:
    """The negative control of the test above."""
    run = options(tmp_path / "run", data=data, steps=8, checkpoint_every=4, checkpoint="async")
    expected = losses(tiny(FSDP), run, before=copy_nothing)
    again = options(
        tmp_path / "again",
        data=data,
        steps=8,
        checkpoint_every=None,
        resume_from=run.out / "checkpoints" / "step-000004",
    )
    assert losses(tiny(FSDP), again) != pytest.approx(expected[4:], abs=1e-5)


def test_each_save_waits_for_the_one_before_and_the_end_for_the_last(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=6, checkpoint_every=1, checkpoint="async", keep_checkpoints=3)
    losses(tiny(FSDP), run, before=write_slowly)
    whole = complete_checkpoints(run.out / "checkpoints")
    assert [path.name for path in whole] == ["step-000004", "step-000005", "step-000006"]
    for path in whole:
        assert damaged_file(path, read_manifest(path, tiny(FSDP))) is None
    measured = read_measurement(run.out / "measurement.json").checkpoints
    assert measured is not None
    assert (measured.mode, measured.saves) == ("async", 5)  # the last is after the measurement
    assert measured.write_seconds is not None
    assert measured.write_seconds > 0.5


def fill_the_disk_after_a_while(step: int) -> None:
    own = checkpoint.write_checkpoint

    def full(folder: Path, tensors: Any, manifest: Any, **named: Any) -> Path:
        time.sleep(0.3)
        if manifest.step == step and dist.get_rank() == 1:
            mock.patch.object(checkpoint, "sync", _no_room).start()
        return own(folder, tensors, manifest, **named)

    mock.patch.object(saver, "write_checkpoint", full).start()


def _no_room(paths: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_is_told_at_the_next_step(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=5000, checkpoint_every=2, checkpoint="async")
    fault = functools.partial(fill_the_disk_after_a_while, 4)
    told = r"RunFailedError: .*step-000004: cannot be written \(rank 1: No space"
    with pytest.raises(RankFailedError, match=told):
        losses(tiny(FSDP), run, before=fault)
    assert [path.name for path in complete_checkpoints(run.out / "checkpoints")] == ["step-000002"]


def test_a_host_without_room_for_a_copy_is_told(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=4, checkpoint_every=2, checkpoint="async")
    with pytest.raises(RankFailedError, match=r"copies .* of this rank to the host, where .* take --checkpoint sync"):
        losses(tiny(FSDP), run, before=fill_the_memory)


def fill_the_memory() -> None:
    mock.patch("psutil.virtual_memory", return_value=mock.Mock(available=0)).start()


def test_a_synchronous_save_stalls_as_long_as_it_writes(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=3, checkpoint_every=1)
    losses(tiny(FSDP), run)
    measured = read_measurement(run.out / "measurement.json").checkpoints
    assert measured is not None
    assert (measured.mode, measured.saves) == ("sync", 2)
    assert measured.write_seconds is not None
    assert measured.write_seconds <= measured.stall_seconds < 1.1 * measured.write_seconds + 0.1
