"""Several ranks at the same work: trouble on one is trouble on all, and none is left waiting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.profiler.session import crew, measure
from shardwright.profiler.session.crew import Crew
from shardwright.profiler.session.interruption import Interruption
from shardwright.profiler.session.measure import Hooks, measure_profile
from shardwright.profiler.session.stopped import StoppedError
from shardwright.profiler.timing.outcome import TroubleError
from shardwright.profiler.timing.probe import Machine, Sizes, UnavailableError
from shardwright.specs.profile import Figure, LayerCheck, Profile
from tests.profiler.virtual import (
    MadeUpFigure,
    MadeUpProbe,
    ThreadRanks,
    VirtualClock,
    VirtualMachine,
    on_threads,
    request,
)


@pytest.fixture(autouse=True)
def quick_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "reference_work", lambda machine: lambda: None)
    monkeypatch.setattr(measure, "reference_work", lambda machine: lambda: None)


def measured(
    ranks: ThreadRanks,
    folder: Path,
    change: Callable[[int, MadeUpProbe, VirtualMachine], None] = lambda rank, probe, machine: None,
    *,
    operation: str = "matmul",
    figure: MadeUpFigure | None = None,
    free: Callable[[], float] = lambda: 1e9,
    formula: Callable[[int], Callable[[Sizes], float]] = lambda rank: lambda at: 1e-3,
    **fields: Any,
) -> Profile:
    """A run with one probe of three sizes; `change` makes a rank different."""
    clock = VirtualClock()
    machine = VirtualMachine(clock, free=free)
    probe = MadeUpProbe(
        clock, operation=operation, sizes=[(1.0,), (2.0,), (4.0,)], formula=formula(ranks.rank), **fields
    )
    change(ranks.rank, probe, machine)
    figures = [figure] if figure else []
    return measure_profile(request(folder), machine, [probe], figures, ranks=ranks, hooks=Hooks(clock=clock))


def sizes(profile: Profile) -> list[float]:
    return [point.at[0] for series in profile.series for point in series.points]


class TestTogether:
    def test_every_rank_returns_the_same_profile_and_one_writes_it(self, tmp_path: Path) -> None:
        first, *others = on_threads(3, lambda ranks: measured(ranks, tmp_path))
        assert sizes(first) == [1.0, 2.0, 4.0]
        assert first.fingerprint.ranks == 3
        assert others == [first, first]
        assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]

    def test_compute_takes_what_it_takes_on_average(self, tmp_path: Path) -> None:
        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, formula=lambda rank: lambda at: 1e-3 * (1 + rank)))
        assert came[0].series[0].points[0].seconds == pytest.approx(1.5e-3)

    def test_a_collective_is_done_when_its_last_rank_is(self, tmp_path: Path) -> None:
        came = on_threads(
            2,
            lambda ranks: measured(
                ranks, tmp_path, operation="all_reduce", formula=lambda rank: lambda at: 1e-3 * (2 - rank)
            ),
        )
        assert came[0].series[0].points[0].seconds == pytest.approx(2e-3)

    def test_ranks_start_a_repeat_together(self) -> None:
        """A barrier right before what is timed."""
        called: list[str] = []

        class Noting(ThreadRanks):
            def barrier(self) -> None:
                called.append("barrier")

        def work(at: Sizes) -> float:
            called.append("work")
            return 1e-3

        clock = VirtualClock()
        probe = MadeUpProbe(clock, sizes=[(1.0,)], formula=work)
        alone = Crew(
            VirtualMachine(clock),
            [probe],
            [],
            ranks=Noting(ThreadRanks.Shared(1), 0),
            interruption=Interruption(),
        )
        alone.prepare(0, 0, (1.0,))
        called.clear()
        alone.repeat(0, 2)
        assert called == ["barrier", "work", "work"]

    def test_figures_are_the_ranks_middle(self, tmp_path: Path) -> None:
        came = on_threads(
            3, lambda ranks: measured(ranks, tmp_path, figure=MadeUpFigure(value=1e-6 * (1, 5, 2)[ranks.rank]))
        )
        figure = came[0].figures["launch_seconds"]
        assert (figure.value, figure.low, figure.high) == pytest.approx((2e-6, 1e-6, 5e-6))


class TestTrouble:
    @pytest.mark.parametrize("rank_in_trouble", [0, 1])
    @pytest.mark.parametrize("where", ["prepare_trouble", "work_trouble"])
    @pytest.mark.parametrize("trouble", [UnavailableError("no room on /scratch"), MemoryError("full")])
    def test_one_rank_s_trouble_leaves_the_size_out_on_all(
        self, tmp_path: Path, rank_in_trouble: int, where: str, trouble: Exception
    ) -> None:
        def change(rank: int, probe: MadeUpProbe, machine: VirtualMachine) -> None:
            if rank == rank_in_trouble:
                setattr(probe, where, {(2.0,): trouble})

        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, change))
        assert sizes(came[0]) == [1.0, 4.0]
        assert f"matmul: 1 size left out: rank {rank_in_trouble}: {trouble}" in came[0].remarks

    def test_the_rank_with_least_memory_decides(self, tmp_path: Path) -> None:
        def change(rank: int, probe: MadeUpProbe, machine: VirtualMachine) -> None:
            probe.needed = lambda at: 100 * at[0]
            machine._free = lambda: 1000.0 if rank == 0 else 300.0

        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, change))
        assert sizes(came[0]) == [1.0, 2.0]
        assert "matmul: 1 size left out: needs 400 B, 255 B may be taken" in came[0].remarks  # known before it is tried

    def test_a_figure_that_one_rank_lacks(self, tmp_path: Path) -> None:
        def run(ranks: ThreadRanks) -> Profile:
            value: float | Exception = 1e-6 if ranks.rank == 0 else UnavailableError("no NVML")
            return measured(ranks, tmp_path, figure=MadeUpFigure(value=value))

        came = on_threads(2, run)
        assert came[0].figures == {}
        assert "launch: not measured: rank 1: no NVML" in came[0].remarks

    def test_a_device_that_vanishes_on_one_rank_ends_all(self, tmp_path: Path) -> None:
        def change(rank: int, probe: MadeUpProbe, machine: VirtualMachine) -> None:
            if rank == 1:

                def vanish(at: Sizes) -> None:
                    machine.gone = True
                    raise RuntimeError("CUDA error: unspecified launch failure")

                probe.before_prepare = vanish

        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, change))
        assert isinstance(came[0], StoppedError)
        assert "rank 1: the device does not answer any more" in str(came[0])
        assert came[1] == came[0].profile

    def test_a_rank_that_dies_ends_the_others_with_a_word(self, tmp_path: Path) -> None:
        def change(rank: int, probe: MadeUpProbe, machine: VirtualMachine) -> None:
            if rank == 1:

                def die(at: Sizes) -> None:
                    raise SystemExit(9)

                probe.before_prepare = die

        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, change))
        assert isinstance(came[0], StoppedError)
        assert "a rank does not answer any more (connection closed by peer)" in str(came[0])
        assert isinstance(came[1], SystemExit)

    def test_rank_0_that_cannot_write_ends_the_others(self, tmp_path: Path) -> None:
        came = on_threads(2, lambda ranks: measured(ranks, tmp_path / "missing"))
        assert isinstance(came[0], SpecError)
        assert "No such file or directory" in str(came[0])
        assert isinstance(came[1], SpecError)
        assert "rank 0 ended without a profile" in str(came[1])

    def test_rank_0_that_dies_ends_the_others(self, tmp_path: Path) -> None:
        def change(rank: int, probe: MadeUpProbe, machine: VirtualMachine) -> None:
            if rank == 0:

                def die(at: Sizes) -> None:
                    raise SystemExit(9)

                probe.before_prepare = die

        came = on_threads(2, lambda ranks: measured(ranks, tmp_path, change))
        assert isinstance(came[1], SpecError)

    def test_a_signal_at_rank_0_ends_all_in_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As if it arrived in the middle of an order: the order is done by all, then all end."""
        orders = [0]
        obey = Crew._obey

        def interrupted(self: Crew, order: Any) -> Any:
            if self._ranks.rank == 0:
                orders[0] += 1
                if orders[0] == 6:
                    self._interruption._heard(2, None)
            return obey(self, order)

        monkeypatch.setattr(Crew, "_obey", interrupted)
        came = on_threads(2, lambda ranks: measured(ranks, tmp_path))
        assert isinstance(came[0], StoppedError)
        assert came[0].signal_number == 2
        assert came[1] == came[0].profile
        assert orders[0] == 6

    def test_layers_are_rank_0_s(self, tmp_path: Path) -> None:
        def run(ranks: ThreadRanks) -> Profile:
            clock = VirtualClock()

            def layers(machine: Machine, profile: Profile) -> list[LayerCheck]:
                return [LAYER.model_copy(update={"forward_seconds": 1.0 + ranks.rank})]

            hooks = Hooks(clock=clock, layers=layers)
            return measure_profile(request(tmp_path), VirtualMachine(clock), [], ranks=ranks, hooks=hooks)

        came = on_threads(2, run)
        assert came[0].layers[0].forward_seconds == 1.0


LAYER = LayerCheck(
    model="tiny",
    seq_len=8,
    micro_batch=1,
    format="fp32",
    recompute="none",
    forward_seconds=1.0,
    backward_seconds=2.0,
    activation_bytes=100.0,
    predicted_forward_seconds=1.1,
    predicted_backward_seconds=2.1,
    predicted_activation_bytes=90.0,
)


class TestHostWork:
    def test_what_runs_on_the_host_is_timed_by_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a GPU machine, too: events would see nothing of it."""
        timed: list[str] = []

        class Gpu(VirtualMachine):
            device = torch.device("cuda")  # none is touched

            def seconds(self, work: Any, repeats: int) -> list[float]:
                timed.append("device")
                return super().seconds(work, repeats)

        class Host(VirtualMachine):
            def seconds(self, work: Any, repeats: int) -> list[float]:
                timed.append("host")
                return super().seconds(work, repeats)

        clock = VirtualClock()
        monkeypatch.setattr(crew, "CpuMachine", lambda ranks: Host(clock))
        probes = [
            MadeUpProbe(clock, operation=name, sizes=[(1.0,)], formula=lambda at: 1e-3)
            for name in ("host_adamw", "disk_read", "disk_write", "adamw")
        ]
        ranks = ThreadRanks(ThreadRanks.Shared(1), 0)
        one = Crew(Gpu(clock), probes, [], ranks=ranks, interruption=Interruption())
        for slot in range(4):
            one.prepare(slot, slot, (1.0,))
            timed.clear()
            one.repeat(slot, 1)
            assert timed == (["device"] if slot == 3 else ["host"])

    def test_a_figure_of_one_rank_is_as_it_was(self) -> None:
        figure = Figure(value=1.0, unit="s", meaning="made up", low=0.5, high=2.0)

        class Probe:
            name = "launch"

            def measure(self, machine: Machine) -> dict[str, Figure]:
                return {"launch_seconds": figure}

        ranks = ThreadRanks(ThreadRanks.Shared(1), 0)
        one = Crew(VirtualMachine(VirtualClock()), [], [Probe()], ranks=ranks, interruption=Interruption())
        assert one.figures(0) == {"launch_seconds": figure}

    def test_what_fails_while_repeated_is_trouble(self) -> None:
        clock = VirtualClock()
        probe = MadeUpProbe(clock, sizes=[(1.0,)], formula=lambda at: 1e-3)
        ranks = ThreadRanks(ThreadRanks.Shared(1), 0)
        one = Crew(VirtualMachine(clock), [probe], [], ranks=ranks, interruption=Interruption())
        one.prepare(0, 0, (1.0,))
        probe.work_trouble[1.0,] = RuntimeError("odd")
        with pytest.raises(TroubleError, match="odd") as raised:
            one.repeat(0, 2)
        assert raised.value.trouble == "failed"
