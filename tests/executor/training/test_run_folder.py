import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.executor.options import RunOptions
from shardwright.executor.training.manifest import MANIFEST, Manifest, plan_digest
from shardwright.executor.training.run_folder import LAUNCHER, RunFolder, RunIdentity, Start
from shardwright.specs.plan import Offload
from shardwright.specs.results.measurement import Fingerprint, Measurement, StepRecord
from tests.executor.runs import tiny
from tests.killed import until_killed
from tests.parity.cases import layers, plan

IDENTITY = RunIdentity(plan_digest="a", data_digest="b", seed=0)
PLAN = tiny(plan((layers(),)))


def record(step: int) -> StepRecord:
    return StepRecord(step=step, loss=1.5, gradient_norm=0.5, learning_rate=0.1, seconds=2.0)


@pytest.fixture
def prepared(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(PLAN, RunOptions(out=folder.path), IDENTITY)
    return folder


class TestOwner:
    def test_the_same_run_may_come_back(self, prepared: RunFolder) -> None:
        prepared.check(IDENTITY, RunOptions(out=prepared.path, steps=500, learning_rate=1.0))
        assert prepared.read_plan() == PLAN
        assert prepared.read_options() == RunOptions(out=prepared.path)

    @pytest.mark.parametrize(
        ("field", "value", "word"), [("plan_digest", "z", "plan"), ("data_digest", "z", "data"), ("seed", 1, "seed")]
    )
    def test_another_run_is_kept_out(self, prepared: RunFolder, field: str, value: Any, word: str) -> None:
        other = IDENTITY.model_copy(update={field: value})
        with pytest.raises(SpecError, match=f"holds a run with another {word} "):
            prepared.check(other, RunOptions(out=prepared.path))

    def test_a_folder_of_something_else_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(SpecError, match="holds files that do not belong to a run"):
            RunFolder(tmp_path).check(IDENTITY, RunOptions(out=tmp_path))
        file = tmp_path / "thesis.tex"
        with pytest.raises(SpecError, match="is a file"):
            RunFolder(file).check(IDENTITY, RunOptions(out=file))

    @pytest.mark.parametrize("count", range(1, 4))
    @pytest.mark.parametrize("operation", ["open", "replace", "mkdir"])
    def test_a_kill_while_it_is_prepared_keeps_nobody_out(self, operation: str, count: int, tmp_path: Path) -> None:
        """At each file that is begun, each that gets its name, and each folder that is made."""
        folder = RunFolder(tmp_path / "run")

        def prepare(die: Callable[[], None]) -> None:
            original, calls = getattr(Path, operation), iter(range(1, 100))

            def killing(*args: Any, **options: Any) -> Any:
                dies = next(calls) == count
                if dies and operation == "replace":  # before the file has its name
                    die()
                found = original(*args, **options)
                if dies:
                    die()
                return found

            setattr(Path, operation, killing)
            folder.prepare(PLAN, RunOptions(out=folder.path), IDENTITY)

        if not until_killed(prepare):
            assert operation == "mkdir", "fewer files than expected"
        folder.prepare(PLAN, RunOptions(out=folder.path), IDENTITY)
        names = {"identity.json", "plan.json", "options.json", "failures"}
        assert {path.name for path in folder.path.iterdir()} == names
        assert folder.read_plan() == PLAN

    def test_an_absent_or_empty_folder_is_free(self, tmp_path: Path) -> None:
        RunFolder(tmp_path).check(IDENTITY, RunOptions(out=tmp_path))
        RunFolder(tmp_path / "absent").check(IDENTITY, RunOptions(out=tmp_path))

    def test_resume_never_refuses_a_checkpoint(self, prepared: RunFolder) -> None:
        never = RunOptions(out=prepared.path, resume="never")
        prepared.check(IDENTITY, never)
        (prepared.checkpoints / "step-000003").mkdir(parents=True)
        (prepared.checkpoints / "step-000003" / "checkpoint.json").write_text("{}")
        with pytest.raises(SpecError, match="resume is 'never'"):
            prepared.check(IDENTITY, never)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        folder = RunFolder(tmp_path / "file" / "run")
        with pytest.raises(SpecError, match="cannot be written"), folder.locked():
            pass


def complete(folder: RunFolder, step: int) -> Path:
    """A checkpoint with nothing in it but its manifest."""
    manifest = Manifest(
        step=step,
        model_name=PLAN.model_name,
        model_config_json=PLAN.model_config_json,
        optimizer=PLAN.training.optimizer,
        plan_digest="a",
        data_digest="b",
        seed=0,
        files={},
    )
    path = folder.checkpoints / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / MANIFEST).write_text(manifest.model_dump_json())
    return path


def measured(steps: int) -> Measurement:
    return Measurement(
        ranks=1,
        warmup_steps=0,
        step_seconds=1.0,
        step_seconds_low=1.0,
        step_seconds_high=1.0,
        part_seconds={},
        tokens_per_s=1.0,
        mfu=None,
        peak_memory_bytes=(1.0,),
        memory_kind="resident",
        steps=tuple(record(step) for step in range(1, steps + 1)),
        fingerprint=Fingerprint(device="d", host="h", python="p", torch="t", date="d"),
    )


class TestStart:
    def start(self, folder: RunFolder, steps: int, **given: Any) -> Start:
        return folder.start(PLAN, RunOptions(out=folder.path, steps=steps, **given))

    def test_an_empty_folder_starts_at_the_beginning(self, prepared: RunFolder) -> None:
        assert self.start(prepared, 10) == Start(None, 0)

    def test_the_highest_step_goes_on_however_many_digits_it_has(self, prepared: RunFolder) -> None:
        for step in (999_999, 1_000_000, 5):
            complete(prepared, step)
        newest = prepared.checkpoints / "step-1000000"
        assert self.start(prepared, 2_000_000) == Start(newest, 1_000_000)

    def test_the_folders_own_checkpoint_goes_before_the_one_to_resume_from(self, prepared: RunFolder) -> None:
        other = complete(RunFolder(prepared.path.parent / "other"), 3)
        assert self.start(prepared, 10, resume_from=other) == Start(other, 3)
        own = complete(prepared, 1)
        assert self.start(prepared, 10, resume_from=other) == Start(own, 1)

    def test_all_steps_taken_and_measured_is_the_end(self, prepared: RunFolder) -> None:
        own = complete(prepared, 10)
        prepared.write_measurement(measured(10))
        assert self.start(prepared, 10) == Start(own, 10)

    def test_the_measurement_of_a_shorter_run_does_not_count(self, prepared: RunFolder) -> None:
        complete(prepared, 15)
        prepared.write_measurement(measured(10))
        with pytest.raises(SpecError, match="is of step 15 and the run is to end at step 15; give more steps"):
            self.start(prepared, 15)

    def test_fewer_steps_than_were_taken_are_refused(self, prepared: RunFolder) -> None:
        complete(prepared, 15)
        prepared.write_measurement(measured(15))
        with pytest.raises(SpecError, match="is of step 15 and the run is to end at step 10"):
            self.start(prepared, 10)


class TestDigest:
    def test_is_that_of_earlier_versions(self) -> None:
        """Whose plans lack what was added since; their runs go on under the same plan."""
        earlier = tiny(plan((layers(4, zero=3),), dp_shard=2), layers=4, hidden_size=64)
        assert plan_digest(earlier) == "a356054060d1e625"
        in_pieces = earlier.training.model_copy(update={"sequence_chunks": 2})
        assert plan_digest(earlier.model_copy(update={"training": in_pieces})) != plan_digest(earlier)
        late = Offload(optimizer_fraction=1, delayed_update=True)
        digests = {
            plan_digest(earlier.model_copy(update={"plan": earlier.plan.model_copy(update={"offload": offload})}))
            for offload in (Offload(optimizer_fraction=1), late)
        }
        assert len(digests) == 2

    def test_follows_plan_model_and_training_and_nothing_else(self) -> None:
        assert plan_digest(PLAN) == plan_digest(PLAN.model_copy(update={"model_name": "other"}))
        assert plan_digest(PLAN) == plan_digest(
            PLAN.model_copy(update={"cluster": tiny(plan((layers(),), tp=2)).cluster})
        )
        assert plan_digest(PLAN) != plan_digest(tiny(plan((layers(),), microbatches=4)))
        assert plan_digest(PLAN) != plan_digest(tiny(plan((layers(),)), intermediate_size=64))
        assert plan_digest(PLAN) != plan_digest(tiny(plan((layers(),)), optimizer="sgd"))


class TestSteps:
    def test_records_come_back(self, prepared: RunFolder) -> None:
        for step in (1, 2):
            prepared.append_step(record(step))
        assert prepared.read_steps() == [record(1), record(2)]

    def test_a_torn_last_line_is_left_out(self, prepared: RunFolder) -> None:
        prepared.append_step(record(1))
        with prepared.steps.open("a") as opened:
            opened.write('{"step": 2, "lo')
        assert prepared.read_steps() == [record(1)]

    @pytest.mark.parametrize(
        "line", [b'{"step": 2, "lo\n', b"\xff\xfe\n", b"[1]\n", b'{"step": 2}\n', b"[" * 9999 + b"\n"]
    )
    def test_a_damaged_line_is_named(self, prepared: RunFolder, line: bytes) -> None:
        prepared.append_step(record(1))
        with prepared.steps.open("ab") as opened:
            opened.write(line)
        prepared.append_step(record(3))
        with pytest.raises(SpecError, match=r"steps\.jsonl: line 2 is damaged; take it out, and start again"):
            prepared.read_steps()

    def test_a_resumed_run_takes_its_later_steps_again(self, prepared: RunFolder) -> None:
        for step in (1, 2, 3):
            prepared.append_step(record(step))
        assert prepared.keep_steps_until(2) == [record(1), record(2)]
        prepared.append_step(record(3))
        assert [found.step for found in prepared.read_steps()] == [1, 2, 3]


HOLDER = """
import sys, time
from pathlib import Path
from shardwright.executor.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_a_second_launcher_is_kept_out_until_the_first_is_gone_even_by_sigkill(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folder.launcher_lives()
        with pytest.raises(SpecError, match="another run is writing there"), folder.locked():
            pass
        holder.kill()
        holder.communicate()
        assert not folder.launcher_lives()
        with folder.locked():
            assert folder.launcher_lives()
        assert not folder.launcher_lives()

    def test_a_launcher_in_the_place_of_a_dead_one_is_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ranks of the first would otherwise take the second for theirs, and two sets of ranks would write one folder."""
        first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
        monkeypatch.setenv(LAUNCHER, first.launcher)
        with first.locked():
            assert first.launcher_lives()
        with second.locked():
            assert not first.launcher_lives()
            monkeypatch.setenv(LAUNCHER, second.launcher)
            assert second.launcher_lives()

    def test_a_folder_that_is_gone_has_no_launcher(self, tmp_path: Path) -> None:
        assert not RunFolder(tmp_path / "gone").launcher_lives()
