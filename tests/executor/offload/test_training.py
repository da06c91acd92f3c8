"""Whole runs with shares off the device: the measurement, checkpoints, resumes, and what goes wrong with drives."""

import errno
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.offload import spaces
from shardwright.executor.training.journal import Journal
from shardwright.specs.plan import Plan
from shardwright.specs.results.measurement import StepRecord, read_measurement
from shardwright.specs.trainable import Trainable
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan
from tests.parity.offload import offloaded
from tests.parity.worlds import RankFailedError

FSDP = plan((layers(4, zero=3),), dp_shard=2)
PIPELINE = plan((layers(2, zero=2),), (layers(2, zero=3),), pp=2, dp_shard=2)
_LORA = Trainable(kind="lora", rank=16, targets=("all-linear",))
ONE = plan((layers(4),))
SHARES: dict[str, tuple[Plan, dict[str, float]]] = {
    "half on the host": (FSDP, {"optimizer_fraction": 0.5}),
    "on drives": (FSDP, {"optimizer_fraction": 1, "nvme_fraction": 1}),
    "between host and drives": (PIPELINE, {"optimizer_fraction": 0.75, "nvme_fraction": 0.5}),
    "streamed, with activations": (
        ONE,
        {
            "optimizer_fraction": 1,
            "gradient_fraction": 1,
            "parameter_fraction": 1,
            "nvme_fraction": 0.5,
            "activations": 1,
        },
    ),
}


def file_of(of: Plan, **shares: float) -> PlanFile:
    file = tiny(of, layers=4, hidden_size=64)
    return offloaded(file, **shares) if shares else file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("clip_norm", [None, 1.0], ids=["beside the backward", "after clipping"])
def test_a_killed_run_continues_with_the_same_losses_to_the_last_digit(
    name: str, clip_norm: float | None, tmp_path: Path, data: Path
) -> None:
    of, shares = SHARES[name]
    expected = losses(file_of(of), options(tmp_path / "without", data=data, clip_norm=clip_norm))
    assert expected[0] - expected[-1] > 0.1, "a run that learns nothing would resume well from anything"
    file, run = file_of(of, **shares), options(tmp_path / "run", data=data, clip_norm=clip_norm)
    with pytest.raises(RankFailedError, match=r"died with exit code -9|failed"):
        losses(file, run, before=kill_after_step_4)
    assert sorted(path.name for path in (run.out / "checkpoints").glob("step-*")) == ["step-000003"]
    assert losses(file, run) == expected
    assert not list((run.out / "offload").glob("*")), "state on drives goes with its process"


def kill_after_step_4() -> None:
    _after_step_4(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_killed_run_with_delayed_updates_continues_with_the_same_losses(tmp_path: Path, data: Path) -> None:
    """What passes read after the checkpoint is in it, beside what the last update has made of it."""
    file = file_of(FSDP, optimizer_fraction=0.5, delayed_update=True)
    expected = losses(file, options(tmp_path / "undisturbed", data=data))
    run = options(tmp_path / "run", data=data)
    with pytest.raises(RankFailedError, match=r"died with exit code -9|failed"):
        losses(file, run, before=kill_after_step_4)
    assert losses(file, run) == expected
    plain = losses(file_of(FSDP), options(tmp_path / "plain", data=data))
    assert expected[0] == plain[0]
    assert expected[1:] != plain[1:]


@pytest.mark.parametrize("delays", ["written", "read"])
def test_passes_read_the_latest_where_a_checkpoint_is_of_another_plan(delays: str, tmp_path: Path, data: Path) -> None:
    files = {
        name: file_of(FSDP, optimizer_fraction=0.37, delayed_update=name == delays) for name in ("written", "read")
    }
    losses(files["written"], options(tmp_path / "there", data=data))
    checkpoint = tmp_path / "there" / "checkpoints" / "step-000003"
    run = options(tmp_path / "here", data=data, resume_from=checkpoint, checkpoint_every=None)
    plain = options(tmp_path / "plain", data=data, resume_from=checkpoint, checkpoint_every=None)
    assert losses(files["read"], run)[0] == losses(file_of(FSDP), plain)[0]


@pytest.mark.parametrize(("written", "read"), [("on drives", None), (None, "between host and drives")])
def test_a_checkpoint_fits_plans_with_other_shares(
    written: str | None, read: str | None, tmp_path: Path, data: Path
) -> None:
    files = [file_of(FSDP) if name is None else file_of(SHARES[name][0], **SHARES[name][1]) for name in (written, read)]
    expected = losses(files[0], options(tmp_path / "there", data=data))
    checkpoint = tmp_path / "there" / "checkpoints" / "step-000003"
    run = options(tmp_path / "here", data=data, resume_from=checkpoint, checkpoint_every=None)
    assert losses(files[1], run) == pytest.approx(expected[3:], abs=1e-5)


def test_a_stopped_run_of_adapters_continues_with_the_same_losses(tmp_path: Path, data: Path) -> None:
    file = file_of(ONE)
    file = file.model_copy(update={"training": file.training.model_copy(update={"trainable": _LORA})})
    shared = offloaded(file, optimizer_fraction=1, nvme_fraction=0.5)
    expected = losses(file, options(tmp_path / "without", data=data))
    run = options(tmp_path / "run", data=data)
    with pytest.raises(RankFailedError, match="Stopped"):
        losses(shared, run, stop_after_step=4)
    assert losses(shared, run) == expected


def test_the_measurement_tells_what_the_engine_held(tmp_path: Path, data: Path) -> None:
    file = file_of(ONE, optimizer_fraction=1, nvme_fraction=0.5, activations=1)
    run = options(tmp_path / "run", data=data, steps=2, checkpoint_every=None)
    losses(file, run)
    held = read_measurement(run.out / "measurement.json").offload
    assert held is not None
    table = {(line.kind, line.place): line.peak_bytes for line in held.held}
    estimate = file.estimated()
    assert held.host_plan_bytes == estimate.host_bytes
    assert all(0 < peak <= stated for peak, stated in zip(held.host_peak_bytes, held.host_plan_bytes, strict=True))
    on_drives = table["parameters", "nvme"] + table["optimizer_state", "nvme"]
    assert 0.75 * estimate.nvme_bytes[0] < on_drives <= estimate.nvme_bytes[0]
    assert table["optimizer_state", "nvme"] == 2 * table["parameters", "nvme"]
    assert table["optimizer_state", "host"] == 2 * table["parameters", "host"]
    assert table["gradients", "host"] >= table["parameters", "nvme"] + table["parameters", "host"]
    assert table["activations", "host"] > 0
    assert read_measurement(run.out / "measurement.json").model_dump(mode="json")["offload"]["held"][0]["place"]


def test_a_run_without_offload_measures_none(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, steps=1, checkpoint_every=None)
    losses(file_of(ONE), run)
    assert read_measurement(run.out / "measurement.json").offload is None


def fill_the_drive() -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spaces.os.posix_fallocate = refuse  # type: ignore[attr-defined]


def test_a_full_drive_is_found_before_the_training(tmp_path: Path, data: Path) -> None:
    file, run = file_of(ONE, optimizer_fraction=1, nvme_fraction=1), options(tmp_path / "run", data=data)
    with pytest.raises(RankFailedError, match=r"SpecError: .*offload: has no room for .* \(No space left on device\)"):
        losses(file, run, before=fill_the_drive)
    assert not (run.out / "steps.jsonl").exists()


def lose_the_drive() -> None:
    """From the end of step 4 on, the drive's file can be neither read nor written."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def lose() -> None:
        spaces.os.preadv = spaces.os.pwritev = fail  # type: ignore[attr-defined]

    _after_step_4(lose)


def _after_step_4(call: Callable[[], None]) -> None:
    original = Journal.add_step

    def add_step(self: Journal, record: StepRecord, parts: Mapping[str, float]) -> None:
        original(self, record, parts)
        if record.step == 4:
            call()

    Journal.add_step = add_step  # type: ignore[method-assign]


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_drive_that_goes_is_one_line_and_the_last_checkpoint_is_good(
    clip_norm: float | None, tmp_path: Path, data: Path
) -> None:
    file = file_of(ONE, optimizer_fraction=1, nvme_fraction=1)
    run = options(tmp_path / "run", data=data, clip_norm=clip_norm)
    with pytest.raises(
        RankFailedError,
        match=r"RunFailedError: .*rank-0.bin: the drive fails .*Input/output error.* checkpoint is whole",
    ):
        losses(file, run, before=lose_the_drive)
    expected = losses(file_of(ONE), options(tmp_path / "without", data=data, clip_norm=clip_norm))
    assert losses(file, run) == expected


@pytest.mark.parametrize(
    ("clip_norm", "left"),
    [(None, "the newest checkpoint is whole"), (1.0, "the parameters are those of the step before")],
)
def test_divergence_stops_the_run(clip_norm: float | None, left: str, tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, learning_rate=1e30, clip_norm=clip_norm, checkpoint_every=1, steps=20)
    with pytest.raises(RankFailedError, match=f"training has diverged, {left}"):
        losses(file_of(FSDP, optimizer_fraction=0.5), run)
