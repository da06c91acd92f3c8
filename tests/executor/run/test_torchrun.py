"""The launcher's side of a run, with small scripts in place of torchrun."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shardwright.base.errors import RunFailedError, SpecError
from shardwright.base.failures import record_failure
from shardwright.executor.run import torchrun
from shardwright.executor.run.torchrun import FAILED, run_torchrun, while_heard
from shardwright.executor.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.failures.mkdir()
    return run


def replace_torchrun(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(torchrun, "_command", lambda folder, ranks, restarts: [sys.executable, "-c", script])


def run(folder: RunFolder) -> list[str]:
    lines: list[str] = []
    run_torchrun(folder, 2, 0, lines.append)
    return lines


def test_every_line_of_progress_arrives(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    replace_torchrun(monkeypatch, "for step in range(500): print('step', step)")
    assert run(folder) == [f"step {step}" for step in range(500)]


def test_what_goes_to_stderr_is_kept_apart(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    replace_torchrun(monkeypatch, "import sys; print('Traceback', file=sys.stderr)")
    assert run(folder) == []
    assert (folder.logs / "torchrun.log").read_text() == "Traceback\n"


def test_a_rank_that_dies_without_a_word(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    replace_torchrun(monkeypatch, "raise SystemExit(1)")
    with pytest.raises(RunFailedError, match="ended without a message, killed perhaps for want of memory"):
        run(folder)


def test_a_rank_that_could_not_write_its_failure(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    script = f"print('step 1'); print('rank 1 {FAILED}OSError: No space left on device'); raise SystemExit(1)"
    replace_torchrun(monkeypatch, script)
    with pytest.raises(
        RunFailedError, match=r"^rank 1 failed: OSError: No space left on device; make room, and start again$"
    ):
        run(folder)


def test_nobody_listens_and_training_goes_on(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """More than a pipe holds is said after the reader of the first line is gone."""
    witness = folder.path / "finished"
    script = f"for step in range(20000): print('step', step)\nopen({str(witness)!r}, 'w').close()"
    replace_torchrun(monkeypatch, script)
    heard: list[str] = []

    def progress(line: str) -> None:
        if heard:
            raise BrokenPipeError
        heard.append(line)

    run_torchrun(folder, 2, 0, while_heard(progress))
    assert heard == ["step 0"]
    assert witness.exists()


def test_a_rank_that_a_library_ended_is_told_by_its_last_line(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    for run_id, said in (("old", "of another day"), ("new", "Traceback\nterminate called by NCCL\n\n")):
        log = folder.logs / run_id / "attempt_0" / "1" / "stderr.log"
        log.parent.mkdir(parents=True)
        log.write_text(said)
        (log.parents[2] / "attempt_0" / "0").mkdir()
        time.sleep(0.02)
    replace_torchrun(monkeypatch, "raise SystemExit(1)")
    with pytest.raises(RunFailedError, match="; its stderr ends with 'terminate called by NCCL'; see"):
        run(folder)


def test_the_first_failure_is_told_with_its_rank(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    record_failure(folder.failures, 3, MemoryError("out of memory\nwith details"))
    time.sleep(0.01)
    record_failure(folder.failures, 0, ConnectionError("peer is gone"))
    replace_torchrun(monkeypatch, "raise SystemExit(1)")
    with pytest.raises(RunFailedError, match=r"^rank 3 failed: MemoryError: out of memory; see [^\n]*$"):
        run(folder)


@pytest.mark.timeout(120)  # the launch would last ten minutes
def test_a_users_mistake_ends_the_run_at_once_and_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    """The other ranks would wait for their peer, and restarts mend nothing."""
    replace_torchrun(monkeypatch, "import time; time.sleep(600)")
    record_failure(folder.failures, 0, ConnectionError("a rank that lost its peer first"))
    threading.Timer(0.3, record_failure, (folder.failures, 1, SpecError("a.bin: holds token 999"))).start()
    with pytest.raises(SpecError) as caught:
        run(folder)
    assert str(caught.value) == "a.bin: holds token 999"


LAUNCHER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born with interrupts ignored
from shardwright.executor.run import torchrun
from shardwright.executor.training.run_folder import RunFolder
torchrun._command = lambda folder, ranks, restarts: [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
torchrun.run_torchrun(RunFolder(Path(sys.argv[1])), 2, 0, lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_child_too(number: signal.Signals, code: int, folder: RunFolder) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    child = int(launcher.stdout.readline())
    launcher.send_signal(number)
    launcher.communicate(timeout=30)
    assert launcher.returncode in (code, -number)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_command_names_ranks_restarts_and_folder(folder: RunFolder) -> None:
    command = torchrun._command(folder, 4, 2)
    assert "--nproc-per-node=4" in command
    assert "--max-restarts=2" in command
    assert command[-3:] == ["-m", "shardwright.executor.run.worker", str(folder.path)]


def test_the_workers_environment(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """Python's safe path keeps the user's own `executor` folder from being imported."""
    replace_torchrun(monkeypatch, "import os; print(os.environ['PYTHONSAFEPATH'], os.environ['OMP_NUM_THREADS'])")
    cores = len(os.sched_getaffinity(0))
    assert run(folder) == [f"1 {max(1, cores // 2)}"]
