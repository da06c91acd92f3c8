"""The launcher's side of a run, with small scripts in place of ranks."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shardwright.base.errors import RanksHungError, RunFailedError, SpecError
from shardwright.base.failures import record_failure
from shardwright.base.stopping import STOPPED
from shardwright.executor.run import workers
from shardwright.executor.run.elastic import RanksGoneError
from shardwright.executor.run.worker import FAILED
from shardwright.executor.run.workers import run_workers, while_heard
from shardwright.executor.training.run_folder import RunFolder

RANK = "import os, signal, sys, time; rank = int(os.environ['RANK']); "


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.failures.mkdir()
    return run


def replace_ranks(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(workers, "_command", lambda folder: [sys.executable, "-c", RANK + script])


def run(folder: RunFolder, *, restarts: int = 0) -> list[str]:
    lines: list[str] = []
    run_workers(folder, 2, restarts, lines.append)
    return lines


def test_every_line_of_progress_arrives(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    replace_ranks(monkeypatch, "[print('step', step) for step in range(500) if not rank]")
    assert run(folder) == [f"step {step}" for step in range(500)]


def test_what_goes_to_stderr_is_kept_apart_for_each_rank(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    replace_ranks(monkeypatch, "print('Traceback of', rank, file=sys.stderr)")
    assert run(folder) == []
    for rank in (0, 1):
        assert (folder.logs / "attempt_0" / str(rank) / "stderr.log").read_text() == f"Traceback of {rank}\n"


class TestLost:
    def test_a_rank_that_was_killed_is_named_and_the_others_end(
        self, monkeypatch: pytest.MonkeyPatch, folder: RunFolder
    ) -> None:
        """Not the one that lost its peer, though it alone left a failure."""
        replace_ranks(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(600)")
        threading.Timer(0.5, record_failure, (folder.failures, 0, ConnectionError("peer is gone"))).start()
        with pytest.raises(RunFailedError, match=r"^rank 1 was killed \(SIGKILL, perhaps for want of memory\); start"):
            run(folder)

    def test_a_rank_that_ended_without_a_word(self, monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
        replace_ranks(monkeypatch, "sys.exit(3) if rank else time.sleep(600)")
        with pytest.raises(RunFailedError, match=r"^rank 1 ended with exit code 3, it left no message; see"):
            run(folder)

    def test_one_that_a_library_ended_is_told_by_its_last_line(
        self, monkeypatch: pytest.MonkeyPatch, folder: RunFolder
    ) -> None:
        replace_ranks(
            monkeypatch,
            "rank and (print('Trace\\nterminate called by NCCL\\n', file=sys.stderr, flush=True), os.abort())",
        )
        with pytest.raises(
            RunFailedError, match=r"rank 1 ended with SIGABRT, its stderr ends with 'terminate called by"
        ):
            run(folder)

    def test_all_start_again_as_often_as_the_options_say(
        self, monkeypatch: pytest.MonkeyPatch, folder: RunFolder
    ) -> None:
        """The failure of an earlier attempt is not told for a later one."""
        count = folder.path / "starts"
        replace_ranks(
            monkeypatch,
            f"open({str(count)!r}, 'a').write('.'); attempts = len(open({str(count)!r}).read()); "
            "time.sleep(0.5); sys.exit(0 if attempts > 2 else 1)",
        )
        record_failure(folder.failures, 1, MemoryError("of the first attempt"))
        lines = run(folder, restarts=1)
        assert len(count.read_text()) == 4
        assert len(lines) == 1
        assert lines[0].startswith("rank 1 failed: MemoryError: of the first attempt; see")
        assert lines[0].endswith("all ranks start again")
        assert not list(folder.failures.iterdir())


def test_a_rank_that_could_not_write_its_failure(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    script = f"print(f'rank {{rank}} {FAILED}OSError: No space left on device') if rank else 0; sys.exit(rank)"
    replace_ranks(monkeypatch, script)
    with pytest.raises(
        RunFailedError, match=r"^rank 1 failed: OSError: No space left on device; make room, and start again$"
    ):
        run(folder)


def test_nobody_listens_and_training_goes_on(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """More than a pipe holds is said after the reader of the first line is gone."""
    witness = folder.path / "finished"
    script = f"rank or ([print('step', step) for step in range(20000)], open({str(witness)!r}, 'w').close())"
    replace_ranks(monkeypatch, script)
    heard: list[str] = []

    def progress(line: str) -> None:
        if heard:
            raise BrokenPipeError
        heard.append(line)

    run_workers(folder, 2, 0, while_heard(progress))
    assert heard == ["step 0"]
    assert witness.exists()


def test_the_first_failure_is_told_with_its_rank(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    record_failure(folder.failures, 3, MemoryError("out of memory\nwith details"))
    time.sleep(0.01)
    record_failure(folder.failures, 0, ConnectionError("peer is gone"))
    replace_ranks(monkeypatch, "sys.exit(1)")
    with pytest.raises(RunFailedError, match=r"^rank 3 failed: MemoryError: out of memory; see [^\n]*$"):
        run(folder)


def test_a_rank_that_did_not_arrive_counts_as_killed(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """Rank 0 says so and ends; rank 1 would sleep on."""
    record_failure(folder.failures, 1, RanksHungError("step 3: rank 1 did not arrive at all_reduce", (1,)))
    replace_ranks(monkeypatch, "time.sleep(60) if rank else sys.exit(1)")
    with pytest.raises(RanksGoneError, match=r"^rank 1 failed: step 3: rank 1 did not arrive") as gone:
        run(folder)
    assert gone.value.killed == frozenset({1})
    assert gone.value.failed == frozenset({0})


@pytest.mark.timeout(120)  # the launch would last ten minutes
def test_a_users_mistake_ends_the_run_at_once_and_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    """The other ranks would wait for their peer, and restarts mend nothing."""
    replace_ranks(monkeypatch, "time.sleep(600)")
    record_failure(folder.failures, 0, ConnectionError("a rank that lost its peer first"))
    threading.Timer(0.3, record_failure, (folder.failures, 1, SpecError("a.bin: holds token 999"))).start()
    with pytest.raises(SpecError) as caught:
        run(folder, restarts=3)
    assert str(caught.value) == "a.bin: holds token 999"


LAUNCHER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born with interrupts ignored
from shardwright.executor.run import workers
from shardwright.executor.run.elastic import RanksGoneError
from shardwright.executor.training.run_folder import RunFolder
workers._command = lambda folder: [sys.executable, "-c", sys.argv[2]]
workers.run_workers(RunFolder(Path(sys.argv[1])), 2, 3, lambda line: print(line, flush=True))
"""
OBEDIENT = f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit({STOPPED}))); "
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WAITS = "os.write(1, f'{os.getpid()}\\n'.encode()); time.sleep(60)"
"""The number and the end of its line in one write: ranks print into one pipe."""


class TestSignals:
    @staticmethod
    def launch(folder: RunFolder, script: str) -> tuple["subprocess.Popen[str]", list[int]]:
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(folder.path), RANK + script], stdout=subprocess.PIPE, text=True
        )
        assert launcher.stdout is not None
        return launcher, [int(launcher.stdout.readline()) for _ in range(2)]

    @staticmethod
    def all_gone(ranks: list[int]) -> bool:
        for rank in ranks:
            with pytest.raises(ProcessLookupError):
                os.kill(rank, 0)
        return True

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    @pytest.mark.parametrize("script", [OBEDIENT + WAITS, WAITS], ids=["heard", "so young that it dies"])
    def test_the_first_stops_the_ranks_and_is_the_exit_code(
        self, number: signal.Signals, code: int, script: str, folder: RunFolder
    ) -> None:
        """Restarts are for lost ranks."""
        launcher, ranks = self.launch(folder, script)
        launcher.send_signal(number)
        said, _ = launcher.communicate(timeout=30)
        assert said == f"{number.name}: stopping after this step; a second signal ends at once\n"
        assert launcher.returncode == code
        assert self.all_gone(ranks)

    def test_the_second_ends_at_once(self, folder: RunFolder) -> None:
        launcher, ranks = self.launch(folder, STUBBORN + WAITS)
        launcher.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert launcher.poll() is None, "one signal is a request"
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=30)  # the ranks would sleep for 60
        assert launcher.returncode == 130
        assert self.all_gone(ranks)

    def test_a_rank_that_is_told_by_others_stops_the_run(self, folder: RunFolder) -> None:
        """A batch system may tell the ranks alone."""
        launcher, ranks = self.launch(folder, OBEDIENT + WAITS)
        os.kill(ranks[1], signal.SIGTERM)
        launcher.communicate(timeout=30)
        assert launcher.returncode == 143
        assert self.all_gone(ranks)


def test_the_environment_of_a_rank(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """Python's safe path keeps the user's own `executor` folder from being imported."""
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PYTHONSAFEPATH", "OMP_NUM_THREADS"]
    replace_ranks(monkeypatch, f"print(' '.join(os.environ[name] for name in {names}) + '\\n', end='')")
    cores = len(os.sched_getaffinity(0))
    assert sorted(run(folder)) == [f"{rank} 2 {rank} 2 1 {max(1, cores // 2)}" for rank in (0, 1)]
