"""The folder of one run: plan, options, step records, checkpoints and measurement, and its lock."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from shardwright.base import PARTIAL, SpecError, read_json, write_whole
from shardwright.costmodel import PlanFile, read_plan_file, write_plan_file
from shardwright.costmodel.phases import Phase, PhasesFile, read_phases_file, write_phases_file
from shardwright.executor import RunOptions
from shardwright.executor.data import TOKENS_FOLDER
from shardwright.executor.text import Tokenizer
from shardwright.specs import Measurement, Spec, StepRecord, read_measurement

from .frozen_start import check_start
from .manifest import complete_checkpoints, newest_checkpoint, read_growing, read_manifest

GENERATION_CONFIG = "generation_config.json"
LAUNCHER = "SHARDWRIGHT_LAUNCHER"
"""The environment variable by which a worker knows its launcher's word in the lock of the folder."""


class RunIdentity(Spec):
    """The identity of a run: its plan, data, seed, and the weights and adapters that it starts from, "" for drawn weights and no adapters.
    Learning rate or steps may change when it continues."""

    plan_digest: str
    data_digest: str
    seed: int
    weights_digest: str = ""
    adapters: str = ""


class Start(NamedTuple):
    """The start of a run: after `step`, from `checkpoint`; None and 0 for the beginning. `passed`: why newer checkpoints were
    passed over."""

    checkpoint: Path | None
    step: int
    passed: tuple[str, ...] = ()


class RunFolder:
    """Paths and records of the run in `path`. Another run overwrites nothing here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.phases = path / "phases.json"
        self.options = path / "options.json"
        self.identity = path / "identity.json"
        self.steps = path / "steps.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.events = path / "tensorboard"
        self.measurement = path / "measurement.json"
        self.checkpoints = path / "checkpoints"
        self.tokenizer = path / "tokenizer"
        self.generation = path / GENERATION_CONFIG
        self.failures = path / "failures"
        self.logs = path / "logs"
        self.launcher = secrets.token_hex(8)
        self._lock = path / ".lock"

    def check(self, identity: RunIdentity, options: RunOptions) -> None:
        """Check that this run may use the folder.

        Raises:
            SpecError: the folder holds another run, one that `options` do not let continue, or other files.
        """
        self.check_place()
        if not self.identity.is_file():
            return
        held = RunIdentity.parse(read_json(self.identity), source=str(self.identity))
        for what, theirs, ours in (
            ("plan", held.plan_digest, identity.plan_digest),
            ("data", held.data_digest, identity.data_digest),
            ("seed", held.seed, identity.seed),
            ("init_from", held.weights_digest, identity.weights_digest),
            ("start of its adapters", held.adapters, identity.adapters),
        ):
            if theirs != ours:
                raise SpecError(
                    f"{self.path}: holds a run with another {what} ({theirs or 'none'}, not {ours or 'none'}); give a new folder, and resume_from to go on from its checkpoint"
                )
        if options.resume == "never" and newest_checkpoint(self.checkpoints):
            raise SpecError(
                f"{self.path}: holds a checkpoint and resume is 'never'; give a new folder or resume 'auto'"
            )

    def check_place(self) -> None:
        """Check that the folder is free or a run's.

        Raises:
            SpecError: it is a file, or holds other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SpecError(f"{self.path}: is a file; give a folder for the run")
        if not self.path.exists() or self.identity.is_file():
            return
        own = (".lock", TOKENS_FOLDER)
        if any(entry.name not in own and not _unfinished(entry) for entry in self.path.iterdir()):
            raise SpecError(f"{self.path}: holds files that do not belong to a run; give an empty or a new folder")

    def step_before(self, phases: PhasesFile, options: RunOptions, damaged: Collection[Path] = ()) -> int:
        """Return the steps of the newest complete checkpoint here, but for `damaged` ones, or of the one that `options` name; 0 without any.

        Raises:
            SpecError: the named one cannot be read, or is of another model.
        """
        own = [checkpoint for checkpoint in complete_checkpoints(self.checkpoints) if checkpoint not in damaged]
        if own:
            return int(own[-1].name.removeprefix("step-"))
        return read_manifest(options.resume_from, phases.phases[0].plan_file).step if options.resume_from else 0

    def start(
        self,
        plan_file: PlanFile,
        options: RunOptions,
        *,
        damaged: Collection[Path] = (),
        last_step: int | None = None,
        grown: tuple[int, PlanFile] | None = None,
    ) -> Start:
        """Return the newest checkpoint here that is whole, else the one that `options` name, else the beginning.

        It may be at the last step only where the measurement is beside it. Then the run is finished. `damaged`: checkpoints whose
        files were read and are not whole. `last_step`: of the phase that begins; None: of the run. `grown`: its model grows
        from that of the phase before, which ended with this step.

        Raises:
            SpecError: there are checkpoints and none can be loaded, or the one found is past the requested steps.
        """
        own = complete_checkpoints(self.checkpoints)[::-1]
        faults: list[SpecError] = []
        end = options.steps if last_step is None else last_step
        for checkpoint in [*own, *([options.resume_from] if options.resume_from else [])]:
            if checkpoint in damaged:
                continue
            try:
                manifest, smaller = read_growing(checkpoint, plan_file, grown and grown[1])
                if smaller and grown and manifest.step != grown[0]:
                    read_manifest(checkpoint, plan_file)  # says of which model it is
                check_start(checkpoint, manifest, plan_file, options)
                step = manifest.step
            except SpecError as fault:
                faults.append(fault)
                continue
            if step >= end and not (checkpoint in own and step == options.steps == self._measured_steps()):
                raise SpecError(f"{checkpoint}: is of step {step} and the run is to end at step {end}; give more steps")
            return Start(checkpoint, step, tuple(map(str, faults)))
        if faults or damaged:
            raise (
                faults[0]
                if faults
                else SpecError(
                    f"{self.checkpoints}: no checkpoint is whole; give resume_from a whole one, or a new folder"
                )
            )
        return Start(None, 0, ())

    def _measured_steps(self) -> int | None:
        return read_measurement(self.measurement).steps[-1].step if self.measurement.is_file() else None

    def prepare(
        self, plan_file: PlanFile, options: RunOptions, identity: RunIdentity, phases: PhasesFile | None = None
    ) -> None:
        """Write plan, options and identity, and the phases of a run in several; delete the failures of an earlier attempt.

        Raises:
            SpecError: `check` refuses (another launcher may have come first), or the folder can't be written.
        """
        self.check(identity, options)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for left in filter(_unfinished, self.path.iterdir()):
                left.unlink()
            write_whole(
                self.identity, identity.model_dump_json(indent=1) + "\n"
            )  # first: it says that the folder is a run's
            shutil.rmtree(self.failures, ignore_errors=True)
            self.failures.mkdir()
            write_plan_file(self.plan, plan_file)
            if phases is not None:
                write_phases_file(self.phases, phases)
            write_whole(self.options, options.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def keep_beside(self, options: RunOptions, vocab_size: int) -> None:
        """Copy the tokenizer that `options` name, and the generation config of the weights that the run starts from.

        Raises:
            SpecError: the tokenizer is not valid, or the folder cannot be written.
        """
        try:
            if options.tokenizer is not None:
                Tokenizer(options.tokenizer, vocab_size).save(self.tokenizer)
            source = options.init_from and options.init_from / GENERATION_CONFIG
            if source and source.is_file():
                shutil.copyfile(source, self.generation)
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def beside_weights(self) -> list[Path]:
        """Return the files that belong beside exported weights: the generation config and those of the tokenizer."""
        tokenizer = sorted(self.tokenizer.iterdir()) if self.tokenizer.is_dir() else []
        return [*([self.generation] if self.generation.is_file() else []), *tokenizer]

    def read_plan(self) -> PlanFile:
        return read_plan_file(self.plan)

    def read_phases(self) -> PhasesFile:
        """The phases of the run, or its plan as the only one."""
        if self.phases.is_file():
            return read_phases_file(self.phases)
        plan_file = self.read_plan()
        return PhasesFile(phases=(Phase(steps=self.read_options().steps, plan_file=plan_file),))

    def read_options(self) -> RunOptions:
        return RunOptions.parse(read_json(self.options), source=str(self.options))

    def read_steps(self) -> list[StepRecord]:
        """Return the records so far, without a last line that a kill cut short."""
        if not self.steps.is_file():
            return []
        records = []
        for number, line in enumerate(self.steps.read_bytes().splitlines(keepends=True), 1):
            if line.endswith(b"\n"):
                records.append(self._record(number, line))
        return records

    def _record(self, number: int, line: bytes) -> StepRecord:
        try:
            return StepRecord.parse(json.loads(line), source=str(self.steps))
        except (ValueError, RecursionError):  # SpecError, JSON's errors and those of UTF-8 are ValueErrors
            raise SpecError(
                f"{self.steps}: line {number} is damaged; take it out, and start again (the record of that step is then missing)"
            ) from None

    def keep_steps_until(self, step: int) -> list[StepRecord]:
        """Drop the records after `step`, which a resumed run writes again; return the others."""
        kept = [record for record in self.read_steps() if record.step <= step]
        write_whole(self.steps, "".join(map(_line, kept)))
        return kept

    def append_step(self, record: StepRecord) -> None:
        with self.steps.open("a", encoding="utf-8") as opened:
            opened.write(_line(record))

    def write_measurement(self, measurement: Measurement) -> None:
        write_whole(self.measurement, measurement.model_dump_json(indent=1) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for one launcher. The system releases the lock at any end of the process.

        Raises:
            SpecError: another run is writing there, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("a+")
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        with lock:
            if _held_elsewhere(lock, fcntl.LOCK_EX):
                time.sleep(0.2)  # a worker may hold the lock for a moment to check its launcher
                if _held_elsewhere(lock, fcntl.LOCK_EX):
                    raise SpecError(f"{self.path}: another run is writing there; wait for it or give a new folder")
            lock.truncate(0)
            lock.write(self.launcher)
            lock.flush()
            yield

    def launcher_lives(self) -> bool:
        """Whether the launcher of this process holds the folder. Workers must end by themselves when it is dead, also where another
        launcher has taken its place."""
        try:
            with self._lock.open("r") as lock:
                own = os.environ.get(LAUNCHER, lock.read())
                lock.seek(0)
                return _held_elsewhere(lock, fcntl.LOCK_SH) and lock.read() == own
        except OSError:  # the folder is gone
            return False


def _unfinished(entry: Path) -> bool:
    """Whether a kill came while this file was written."""
    return entry.name.startswith(".") and entry.name.endswith(PARTIAL) and entry.is_file()


def _line(record: StepRecord) -> str:
    return record.model_dump_json(exclude_defaults=True) + "\n"


def _held_elsewhere(lock: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
