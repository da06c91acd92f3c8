"""Runs on other numbers of devices than their plan is for."""

import signal
from pathlib import Path

import pytest

from shardwright.base.errors import InfeasibleError, RunFailedError, SpecError
from shardwright.costmodel.plan_file import PlanFile, write_plan_file
from shardwright.executor.run import launching
from shardwright.executor.run.elastic import Devices, RanksGoneError, plan_for_what_is_left
from shardwright.executor.run.launching import launch
from shardwright.executor.training.manifest import plan_digest
from shardwright.executor.training.run_folder import RunFolder
from shardwright.planner.nearby.replanned import replanned
from shardwright.specs.trainable import Trainable
from tests.executor.forked import ForkedRank
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

TWO = tiny(plan((layers(zero=3),), dp_shard=2))


def gone(killed: tuple[int, ...] = (), failed: tuple[int, ...] = ()) -> RanksGoneError:
    return RanksGoneError("rank 1 was killed", killed, failed)


class TestDevices:
    def test_on_cpus_there_are_as_many_as_ranks_are_left(self) -> None:
        devices = Devices.present(4, gpus=0)
        assert devices.lose(gone(killed=(1, 2)))
        assert devices.ranks == 2
        assert devices.environment == {}
        assert not devices.lose(gone(failed=(0,))), "an error of the code is no loss of a CPU"

    def test_a_gpu_whose_rank_was_killed_is_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, 5,3,1")
        devices = Devices.present(3, gpus=4)
        assert devices.environment == {"CUDA_VISIBLE_DEVICES": "7,5,3,1"}
        assert devices.lose(gone(killed=(1,)))
        assert devices.ranks == 3
        assert devices.environment == {"CUDA_VISIBLE_DEVICES": "7,3,1"}
        assert devices.lose(gone(killed=(1,)))
        assert devices.environment == {"CUDA_VISIBLE_DEVICES": "7,1"}

    def test_a_gpu_whose_rank_failed_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        devices = Devices.present(4, gpus=4)
        devices.answers = lambda name: name != "2"
        assert not devices.lose(gone(failed=(0, 1)))
        assert devices.lose(gone(failed=(2, 3)))
        assert devices.environment == {"CUDA_VISIBLE_DEVICES": "0,1,3"}


class TestPlanForWhatIsLeft:
    def test_where_enough_is_left_the_plan_stays(self) -> None:
        assert plan_for_what_is_left(TWO, Devices(3), never, gone()) is TWO

    def test_without_a_plan_the_run_ends_with_both_reasons(self) -> None:
        with pytest.raises(
            RunFailedError, match=r"^rank 1 was killed; and there is no plan for the 1 left \(too large\)$"
        ):
            plan_for_what_is_left(TWO, Devices(1), nothing_fits, gone())

    def test_without_a_device_the_run_ends(self) -> None:
        with pytest.raises(RanksGoneError):
            plan_for_what_is_left(TWO, Devices(0), never, gone())


def never(plan_file: PlanFile, devices: int, *, exactly: bool = False) -> PlanFile:
    raise AssertionError("planned anew")


def nothing_fits(plan_file: PlanFile, devices: int, *, exactly: bool = False) -> PlanFile:
    raise InfeasibleError("too large")


class TestAtTheStart:
    """Nothing is started: `run_workers` is replaced."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        ranks: list[int] = []

        def start(folder: RunFolder, count: int, *_args: object, **_options: object) -> None:
            ranks.append(count)
            raise SystemExit(9)

        monkeypatch.setattr(launching, "run_workers", start)
        return ranks

    def test_the_plan_is_for_what_the_options_offer(self, tmp_path: Path, started: list[int]) -> None:
        told: list[str] = []
        write_plan_file(tmp_path / "plan.json", TWO)
        run = options(tmp_path / "run", data=text_file(tmp_path), ranks=1)
        with pytest.raises(SystemExit):
            launch(tmp_path / "plan.json", run, progress=told.append, plan_for=replanned)
        assert started == [1]
        assert told[0].startswith("the plan is for 2 ranks, and the options offer 1: planned anew, 1 rank as 1 rank")
        folder = RunFolder(run.out)
        assert folder.read_plan().plan.mesh.ranks == 1
        assert f'"plan_digest": "{plan_digest(TWO)}"' in folder.identity.read_text(), "the folder is another run's"

    def test_what_cpus_offer_at_most_is_no_wish(self, tmp_path: Path, started: list[int]) -> None:
        write_plan_file(tmp_path / "plan.json", TWO)
        with pytest.raises(SystemExit):
            launch(tmp_path / "plan.json", options(tmp_path / "run", data=text_file(tmp_path)), plan_for=never)
        assert started == [2]

    def test_under_torchrun_it_is_for_all_that_it_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[int, bool]] = []

        def note(plan_file: PlanFile, devices: int, *, exactly: bool = False) -> PlanFile:
            asked.append((devices, exactly))
            raise SpecError("seen")

        write_plan_file(tmp_path / "plan.json", TWO)
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(SpecError, match="seen"):
            launch(tmp_path / "plan.json", options(tmp_path / "run", data=text_file(tmp_path)), plan_for=note)
        assert asked == [(3, True)]

    def test_frozen_weights_that_are_drawn_are_told(self, tmp_path: Path, started: list[int]) -> None:
        told: list[str] = []
        adapted = TWO.training.model_copy(update={"trainable": Trainable(kind="lora", rank=2, targets=("attention",))})
        write_plan_file(tmp_path / "plan.json", TWO.model_copy(update={"training": adapted}))
        with pytest.raises(SystemExit):
            launch(tmp_path / "plan.json", options(tmp_path / "run", data=text_file(tmp_path)), progress=told.append)
        assert told[0].endswith(
            "is trained beside weights drawn from the seed; give --init-from to fine-tune those of a model"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "rank 1 was killed"), (signal.SIGSTOP, "rank 1 did not arrive at ")]
)
def test_a_rank_that_is_gone_for_good_leaves_a_plan_for_the_other(
    tmp_path: Path, forked_ranks: list[ForkedRank], number: signal.Signals, words: str
) -> None:
    """The run goes on from the newest checkpoint on one rank, and takes the steps that it would have taken on two. A rank that hangs is gone
    after the timeout."""
    write_plan_file(tmp_path / "plan.json", TWO)
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=8, checkpoint_every=2, timeout_seconds=30.0)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("step 5/") and not any("going on" in said for said in told):
            forked_ranks[-1].send_signal(number)

    measurement = launch(tmp_path / "plan.json", run, progress=tell, plan_for=replanned)
    assert any(words in line and "going on with what is left, 1 rank as 1 rank, pred" in line for line in told), told
    assert measurement.ranks == 1
    assert [record.step for record in measurement.steps] == list(range(1, 9))
    straight = losses(TWO, options(tmp_path / "straight", data=run.data[0], steps=8, checkpoint_every=None))
    assert [record.loss for record in measurement.steps] == pytest.approx(straight, abs=1e-5)
