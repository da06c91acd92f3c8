"""Runs that are really ended: by SIGKILL, SIGTERM and Ctrl-C, in a process of their own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shardwright.profiler.session.interruption import InterruptedBySignalError, Interruption
from shardwright.profiler.session.journal import journal_path
from shardwright.specs.profile import read_profile

_ROOT = Path(__file__).parents[3]
_SIZES = 300


def start(out: Path, *, sizes: int = _SIZES) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.profiler.endless_run", str(out), "100", str(sizes)]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    return subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_after(run: "subprocess.Popen[str]", points: int, number: signal.Signals) -> tuple[int, str]:
    """The exit code and the words on stderr of a run that gets the signal once it has so many points."""
    assert run.stdout is not None
    for line in run.stdout:
        if line.strip().isdigit() and int(line) >= points:
            break
    run.send_signal(number)
    _, words = run.communicate(timeout=60)
    return run.returncode, words


class TestRealSignals:
    def test_killed_it_goes_on(self, tmp_path: Path) -> None:
        out = tmp_path / "profile.json"
        code, _ = end_after(start(out), 20, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not out.exists()
        kept = journal_path(out).read_bytes().count(b'"point"')
        assert kept >= 20
        code, _ = end_after(start(out), kept + 10, signal.SIGKILL)
        more = journal_path(out).read_bytes().count(b'"point"')
        assert more >= kept + 10
        code, _ = end_after(start(out), more + 5, signal.SIGTERM)
        assert code == 128 + signal.SIGTERM
        profile = read_profile(out)
        sizes = [point.at for point in profile.series[0].points]
        assert len(sizes) == len(set(sizes)) >= more + 5
        assert not profile.complete

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_asked_to_end_it_writes_what_there_is(self, tmp_path: Path, number: signal.Signals) -> None:
        out = tmp_path / "profile.json"
        code, words = end_after(start(out), 5, number)
        assert code == 128 + number
        profile = read_profile(out)
        assert profile.points >= 5
        assert not profile.complete
        assert f"stopped early: ended by {number.name}" in profile.remarks
        assert words.strip().splitlines() == [
            f"ended by {number.name}; {profile.points} points are in {out}: run the same command again to go on"
        ]
        assert journal_path(out).exists()

    def test_left_alone_it_ends_by_itself(self, tmp_path: Path) -> None:
        out = tmp_path / "profile.json"
        run = start(out, sizes=3)
        told, _ = run.communicate(timeout=60)
        assert run.returncode == 0
        assert told.splitlines()[-1] == "points 3"
        assert read_profile(out).complete


class TestTogether:
    def test_at_once_when_alone(self) -> None:
        interruption = Interruption()
        with interruption.listening(), pytest.raises(InterruptedBySignalError) as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.number == signal.SIGTERM

    def test_not_in_the_middle_of_what_several_ranks_do(self) -> None:
        interruption, reached = Interruption(), []

        def work() -> None:
            with interruption.together():
                signal.raise_signal(signal.SIGINT)
                reached.append("the end")

        with interruption.listening(), pytest.raises(InterruptedBySignalError):
            work()
        assert reached == ["the end"]
        assert not interruption.forced

    def test_a_second_signal_does_not_wait(self) -> None:
        interruption, reached = Interruption(), []

        def work() -> None:
            with interruption.together():
                signal.raise_signal(signal.SIGINT)
                reached.append("after the first")
                signal.raise_signal(signal.SIGINT)
                reached.append("after the second")

        with interruption.listening(), pytest.raises(InterruptedBySignalError):
            work()
        assert reached == ["after the first"]
        assert interruption.forced

    def test_other_ranks_leave_the_first_to_rank_0(self) -> None:
        interruption = Interruption(obedient=True)
        with interruption.listening():
            signal.raise_signal(signal.SIGINT)
            with interruption.together():
                pass
            with pytest.raises(InterruptedBySignalError):
                signal.raise_signal(signal.SIGINT)

    def test_handlers_are_put_back(self) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with Interruption().listening():
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_a_thread_listens_to_nothing(self) -> None:
        heard: list[object] = []

        def listen() -> None:
            before = signal.getsignal(signal.SIGINT)
            with Interruption().listening():
                heard.append(signal.getsignal(signal.SIGINT) is before)

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert heard == [True]

    def test_no_except_on_the_way_swallows_it(self) -> None:
        assert not issubclass(InterruptedBySignalError, Exception)
