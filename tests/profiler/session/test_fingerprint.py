"""What a profile says it was measured on."""

import platform
import socket
from typing import Any

import psutil
import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.profiler.ranks.seam import AloneRanks
from shardwright.profiler.session import fingerprint
from shardwright.profiler.session.fingerprint import machine_fingerprint
from tests.profiler.virtual import VirtualClock, VirtualMachine


class ToldRanks(AloneRanks):
    """Rank 0 of several, whose others gathered what is made of rank 0's."""

    def __init__(self, *others: tuple[str, dict[str, str | None]]) -> None:
        self.others, self.size = others, 1 + len(others)

    def gather(self, thing: Any) -> list[Any]:
        host, facts = thing
        return [thing, *((name or host, facts | changes) for name, changes in self.others)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> VirtualMachine:
    monkeypatch.setattr(fingerprint, "cpu_model", lambda: "EPYC")
    monkeypatch.setattr(fingerprint, "usable_cores", lambda: 6)
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64e9})())
    return VirtualMachine(VirtualClock(), clock_hz=2.6e9)


class TestCpu:
    def test_one_rank(self, machine: VirtualMachine) -> None:
        found = machine_fingerprint(machine, AloneRanks())
        assert (found.device, found.kind, found.driver, found.cuda) == ("EPYC", "cpu", None, None)
        assert (found.torch, found.python) == (torch.__version__, platform.python_version())
        assert (found.host, found.cores, found.threads) == ("node1", 6, torch.get_num_threads())
        assert (found.ranks, found.nodes, found.device_memory_bytes, found.clock_hz) == (1, 1, 64e9, 2.6e9)
        assert len(found.date) == len("2026-01-02T03:04:05+00:00")

    def test_ranks_and_the_hosts_they_are_on(self, machine: VirtualMachine) -> None:
        ranks = ToldRanks(("", {}), ("node2", {}), ("node2", {}))
        found = machine_fingerprint(machine, ranks)
        assert (found.ranks, found.nodes, found.device_memory_bytes) == (4, 2, 32e9)

    def test_ranks_that_differ(self, machine: VirtualMachine) -> None:
        ranks = ToldRanks(("", {}), ("node2", {"torch": "2.11.0"}))
        with pytest.raises(SpecError, match=r"rank 0 on node1 has torch .*, rank 2 on node2 has torch 2\.11\.0"):
            machine_fingerprint(machine, ranks)

    def test_the_clock_is_read_under_load(self, machine: VirtualMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        monkeypatch.setattr(machine, "clock_hz", lambda: order.append("clock"))
        machine_fingerprint(machine, AloneRanks(), load=lambda: order.append("load"))
        assert order == ["load", "clock"]


class TestCuda:
    def test_driver_and_cuda_are_told(self, machine: VirtualMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        machine.device = torch.device("cuda", 1)
        monkeypatch.setattr(machine, "clock_hz", lambda: order.append("clock"))
        monkeypatch.setattr(machine, "synchronize", lambda: order.append("synchronize"))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
        properties = type("Properties", (), {"total_memory": 85e9})()
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(fingerprint, "reported_value", {"driver_version": "580.65"}.get)
        found = machine_fingerprint(machine, AloneRanks(), load=lambda: order.append("load"))
        assert (found.device, found.kind, found.device_memory_bytes) == ("NVIDIA H100 80GB HBM3", "gpu", 85e9)
        assert (found.driver, found.cuda) == ("580.65", "13.0")
        assert order[0] == "load"
        assert order[-2:] == ["clock", "synchronize"]
        assert order.count("load") > 10
