"""What is lost to work that runs at once, from times that are made up, and once for real."""

import pytest
import torch

from shardwright.profiler.probes.movement import overlap as overlap_probe
from shardwright.profiler.probes.movement.host_copy import HostCopyProbe
from shardwright.profiler.probes.movement.overlap import CollectiveOverlapProbe, CopyOverlapProbe, lost_share
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import UnavailableError
from shardwright.specs.profile import Figure
from tests.parity.worlds import run_world
from tests.profiler.gpu_stand_in import GpuStandIn
from tests.profiler.probes.movement.test_collective import joined


@pytest.mark.parametrize(
    ("alone", "together", "lost"), [(2.0, 4.0, 0.5), (3.0, 4.0, 0.25), (2.0, 2.0, 0.0), (2.0, 1.0, 0.0)]
)
def test_the_share_that_is_lost(alone: float, together: float, lost: float) -> None:
    """Work that takes 4 s instead of 3 s lost 1 s to 4 s of the other."""
    assert lost_share([alone] * 3, [together] * 3).value == lost


def test_the_interval_is_that_of_the_quartiles() -> None:
    figure = lost_share([1.0, 1.0, 1.0], [1.0, 1.25, 2.0, 4.0, 10.0])
    assert (figure.low, figure.value, figure.high) == pytest.approx((0.2, 0.5, 0.75))


def test_each_is_compared_with_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute goes from 1 to 2 s, the copy from 3 to 4 s."""
    machine = GpuStandIn({"compute": 1.0, "copy": 3.0}, together={"compute": [2.0] * 3, "copy": [4.0] * 3})
    compute, copy = machine.work("compute", []), machine.work("copy", [])
    prepared: list[tuple[HostCopyProbe, tuple[float, ...]]] = []

    def prepare(probe: HostCopyProbe, at: tuple[float, ...], _: object) -> object:
        prepared.append((probe, at))
        return copy

    monkeypatch.setattr(overlap_probe, "busy_matmul", lambda _: compute)
    monkeypatch.setattr(HostCopyProbe, "prepare", prepare)
    figures = CopyOverlapProbe().measure(machine)
    assert {name: figure.value for name, figure in figures.items()} == {
        "compute_slowdown_beside_copy": 0.5,
        "copy_slowdown_beside_compute": 0.25,
    }
    assert prepared == [(HostCopyProbe("to_device", "pinned"), (2.0**26,))]
    assert figures["compute_slowdown_beside_copy"].meaning == "compute lost to each second of a copy beside it"


def test_copies_here() -> None:
    figures = CopyOverlapProbe().measure(CpuMachine())
    assert all(0 <= figure.value < 1 for figure in figures.values())
    assert len(figures) == 2


def _overlap() -> tuple[dict[str, Figure], int]:
    torch.set_num_threads(1)
    ranks = joined(("a", "a"))
    figures = CollectiveOverlapProbe(ranks).measure(CpuMachine(ranks))
    return figures, len(ranks.gather(None))


def test_collectives_here_leave_the_ranks_in_step() -> None:
    for figures, gathered in run_world(2, _overlap):
        assert set(figures) == {"compute_slowdown_beside_collective", "collective_slowdown_beside_compute"}
        assert all(0 <= figure.value < 1 for figure in figures.values())
        assert gathered == 2


def _overlap_of_one() -> str:
    ranks = joined(("a",))
    try:
        CollectiveOverlapProbe(ranks).measure(CpuMachine(ranks))
    except UnavailableError as error:
        return str(error)
    return ""


def test_one_rank_has_nothing_to_overlap() -> None:
    assert run_world(1, _overlap_of_one) == ["a single rank has no other rank to communicate with"]
