"""A run that hangs ends, and says which rank did not arrive where."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from shardwright.base.errors import RunFailedError
from shardwright.base.failures import first_failure
from shardwright.costmodel.plan_file import write_plan_file
from shardwright.executor.ranks import arrival
from shardwright.executor.ranks.arrival import Watch, missing
from shardwright.executor.run.launching import launch
from tests.executor.forked import ForkedRank
from tests.executor.runs import options, text_file, tiny
from tests.parity.cases import layers, plan


def place(rank: int, collective: str | None, *, part: str = "forward_backward", step: int = 7) -> arrival._Place:
    return arrival._Place(rank, step, part, collective, 60.0)


class TestMissing:
    def test_a_rank_that_says_nothing(self) -> None:
        said = missing({0: place(0, "all_reduce"), 2: place(2, "all_reduce")}, ranks=3, limit_seconds=60)
        assert said == (
            "step 7: no rank has gone on for 60 s: rank 1 did not arrive at all_reduce, where rank 0, 2 waits (forward_backward); "
            "rank 1 says nothing (it is stopped, or its machine is gone)"
        )

    def test_a_rank_that_does_something_else(self) -> None:
        places = {0: place(0, "all_reduce"), 1: place(1, None, part="data", step=6)}
        said = missing(places, ranks=2, limit_seconds=60)
        assert said.startswith("step 6: no rank has gone on for 60 s: rank 1 did not arrive at all_reduce")
        assert said.endswith("rank 1 is in data of step 6")

    def test_ranks_that_wait_for_different_things(self) -> None:
        said = missing({0: place(0, "all_reduce"), 1: place(1, "barrier")}, ranks=2, limit_seconds=60)
        assert "all ranks wait, for different things: rank 0 waits in all_reduce (forward_backward); rank 1" in said


class TestWatch:
    def watch(self, folder: Path, limit_seconds: float) -> tuple[Watch, threading.Event]:
        over = threading.Event()
        found = Watch(folder, rank=0, ranks=1, limit_seconds=limit_seconds, end=lambda code: over.set())
        found.start()
        return found, over

    def test_who_goes_on_is_left_alone(self, tmp_path: Path) -> None:
        watch, over = self.watch(tmp_path, 0.4)
        for step in range(10):
            time.sleep(0.1)
            watch.at(step, "data")
        watch.close()
        time.sleep(0.6)
        assert not over.is_set()
        assert not list(tmp_path.iterdir())

    def test_who_does_not_is_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrival, "_SETTLE_SECONDS", 0.1)
        watch, over = self.watch(tmp_path, 0.3)
        watch.at(3, "data")
        assert over.wait(5)
        failure = first_failure(tmp_path)
        assert failure is not None
        assert failure.message == "step 3: no rank has gone on for 0 s; rank 0 is in data of step 3"
        assert not failure.hung, "where nobody waits, nobody is to blame"
        assert json.loads((tmp_path / "waits-0.json").read_text())["collective"] is None


@pytest.mark.slow
def test_a_stopped_rank_is_named_with_the_collective_where_the_other_waits(
    tmp_path: Path, forked_ranks: list[ForkedRank]
) -> None:
    write_plan_file(tmp_path / "plan.json", tiny(plan((layers(zero=3),), dp_shard=2)))
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=10_000, timeout_seconds=6.0)

    def tell(line: str) -> None:
        if line.startswith("step 5/"):
            forked_ranks[1].send_signal(signal.SIGSTOP)

    with pytest.raises(RunFailedError) as caught:
        launch(tmp_path / "plan.json", run, progress=tell)
    said = str(caught.value)
    assert said.startswith("rank 1 failed: step ")
    assert "no rank has gone on for 6 s: rank 1 did not arrive at " in said
    assert "where rank 0 waits" in said
    assert "rank 1 says nothing (it is stopped, or its machine is gone)" in said
    assert "\n" not in said
