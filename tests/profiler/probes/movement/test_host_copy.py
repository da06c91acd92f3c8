"""Copies move the bytes they say, the way they say."""

from typing import get_args

import pytest
import torch

from shardwright.profiler.probes.movement import host_copy as host_copy_probe
from shardwright.profiler.probes.movement.host_copy import Direction, HostCopyProbe, host_copy_probes
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import UnavailableError
from shardwright.profiler.timing.side_by_side import busy_bytes
from tests.profiler.gpu_stand_in import GpuStandIn


def test_the_variants_of_a_cpu_and_of_a_gpu() -> None:
    assert [probe.variant for probe in host_copy_probes(CpuMachine())] == [
        "to_device-pageable",
        "to_host-pageable",
        "to_device-pageable-together",
        "to_host-pageable-together",
        "to_device-pageable-computing",
        "to_host-pageable-computing",
    ]
    assert [probe.variant for probe in host_copy_probes(GpuStandIn({}))] == [
        "to_device-pinned",
        "to_host-pinned",
        "to_device-pageable",
        "to_host-pageable",
        "to_device-pinned-together",
        "to_host-pinned-together",
        "to_device-pinned-computing",
        "to_host-pinned-computing",
    ]


@pytest.mark.parametrize("direction", get_args(Direction))
def test_each_copy_is_of_the_size_and_of_another_part(direction: Direction) -> None:
    """So much that what is small does not stay in a cache."""
    copy = HostCopyProbe(direction, "pageable").prepare((float(2**24),), CpuMachine())
    targets = [copy() for _ in range(9)]
    assert all(isinstance(target, torch.Tensor) for target in targets)
    starts = [target.data_ptr() for target in targets if isinstance(target, torch.Tensor)]
    assert {target.nbytes for target in targets if isinstance(target, torch.Tensor)} == {2**24}
    assert len(set(starts)) == 8
    assert starts[8] == starts[0]


def _ends(monkeypatch: pytest.MonkeyPatch, probe: HostCopyProbe) -> tuple[list[bool], list[tuple[str, bool]]]:
    """On a made-up GPU: which host buffers are page-locked, and from where each copy goes, and whether it is awaited."""
    locked: list[bool] = []
    made: list[tuple[str, bool]] = []
    real_ones = torch.ones

    def ones(size: int, *, dtype: torch.dtype, device: object = None, pin_memory: bool = False) -> torch.Tensor:
        if device is None:
            locked.append(pin_memory)
        return _Tagged(real_ones(size, dtype=dtype), "host" if device is None else "device", made)  # type: ignore[return-value]

    monkeypatch.setattr(torch, "ones", ones)
    machine = GpuStandIn({})
    probe.prepare((float(2**24),), machine)()
    return locked, made


class _Tagged:
    """A tensor that knows which memory it is meant to be in."""

    def __init__(self, tensor: torch.Tensor, place: str, made: list[tuple[str, bool]]) -> None:
        self._tensor, self._place, self._made = tensor, place, made

    def __getitem__(self, part: slice) -> "_Tagged":
        return _Tagged(self._tensor[part], self._place, self._made)

    def copy_(self, source: "_Tagged", non_blocking: bool) -> "_Tagged":
        self._made.append((f"{source._place} to {self._place}", non_blocking))
        return self


@pytest.mark.parametrize(
    ("probe", "locked", "made"),
    [
        (HostCopyProbe("to_device", "pinned"), [True], [("host to device", True)]),
        (HostCopyProbe("to_host", "pinned"), [True], [("device to host", True)]),
        (HostCopyProbe("to_device", "pageable"), [False], [("host to device", False)]),
        (HostCopyProbe("to_host", "pageable"), [False], [("device to host", False)]),
    ],
)
def test_which_way_and_from_what_memory(
    monkeypatch: pytest.MonkeyPatch, probe: HostCopyProbe, locked: list[bool], made: list[tuple[str, bool]]
) -> None:
    """Only page-locked copies return before they are done."""
    assert _ends(monkeypatch, probe) == (locked, made)


def test_together_means_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    companions: list[object] = []
    made: list[str] = []

    def noted(direction: Direction, *_: object) -> object:
        made.append(direction)
        return lambda: direction

    monkeypatch.setattr(host_copy_probe, "_copies", noted)
    monkeypatch.setattr(host_copy_probe, "beside", lambda work, other, machine: companions.append((work(), other())))
    HostCopyProbe("to_host", "pageable", "together").prepare((4096.0,), CpuMachine())
    HostCopyProbe("to_device", "pageable", "together").prepare((4096.0,), CpuMachine())
    assert companions == [("to_host", "to_device"), ("to_device", "to_host")]


@pytest.mark.parametrize("company", ["together", "computing"])
def test_copies_in_company_run_here(company: host_copy_probe.Company) -> None:
    machine = CpuMachine()
    work = HostCopyProbe("to_device", "pageable", company).prepare((float(2**22),), machine)
    assert all(seconds > 0 for seconds in machine.seconds(work, 3))


def test_nothing_is_page_locked_without_a_gpu() -> None:
    with pytest.raises(UnavailableError, match="page-locked memory needs a GPU"):
        HostCopyProbe("to_device", "pinned").prepare((4096.0,), CpuMachine())


def test_the_host_is_asked_before_memory_is_page_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copy_probe, "available_memory_bytes", lambda: 2.0**30)
    with pytest.raises(
        UnavailableError, match=r"copies of 1024 MiB take 1\.0 GiB of the host, which has 0\.9 GiB left"
    ):
        HostCopyProbe("to_device", "pinned").prepare((float(2**30),), GpuStandIn({}))


def test_memory_holds_both_ends_and_both_ways() -> None:
    size = (float(2**28),)
    assert HostCopyProbe("to_device", "pageable").needed_bytes(size) == 2 * 2**28
    assert HostCopyProbe("to_device", "pageable", "together").needed_bytes(size) == 4 * 2**28
    assert HostCopyProbe("to_device", "pageable").needed_bytes((4096.0,)) == 2 * 2**27, "what is small rotates"
    computing = HostCopyProbe("to_device", "pageable", "computing").needed_bytes(size)
    assert computing >= 2 * 2**28 + max(busy_bytes(CpuMachine()), busy_bytes(GpuStandIn({})))


def test_sizes_between() -> None:
    probe = HostCopyProbe("to_device", "pageable")
    assert probe.between((float(2**20),), (float(2**24),)) == (2.0**22,)
    assert probe.between((4096.0,), (8192.0,)) is None
    assert all(at[0] % 4096 == 0 for at in probe.first_sizes())
    assert {at[0] for at in probe.first_sizes()} >= {2**16, 2**30}


@pytest.mark.parametrize("company", ["together", "computing"])
def test_in_company_only_what_lasts(company: host_copy_probe.Company) -> None:
    sizes = [at[0] for at in HostCopyProbe("to_device", "pageable", company).first_sizes()]
    assert (min(sizes), max(sizes)) == (2**20, 2**30)
