"""Memory that is no tensor's: of made-up devices to the byte, of this machine's within reason."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from shardwright.profiler.probes.movement import fresh_process
from shardwright.profiler.probes.movement import memory as memory_probe
from shardwright.profiler.probes.movement.fresh_process import FreshProcess, ask_fresh_process
from shardwright.profiler.probes.movement.memory import (
    AllocatorProbe,
    CommunicatorProbe,
    ProcessMemoryProbe,
    memory_probes,
)
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import UnavailableError
from tests.parity.worlds import run_world
from tests.profiler.gpu_stand_in import GpuStandIn
from tests.profiler.probes.movement.test_collective import joined

GIB = 2.0**30


def test_a_process_on_a_cpu() -> None:
    def ask(gpu: int | None, look: Callable[[], float]) -> tuple[FreshProcess, float]:
        assert gpu is None
        return FreshProcess(resident_bytes=300e6, churned_bytes=110e6, live_bytes=100e6), look()

    figures = ProcessMemoryProbe(ask=ask).measure(CpuMachine())
    assert figures["context_bytes"].value == 300e6
    assert figures["context_bytes"].unit == "bytes"
    assert figures["allocator_overhead"].value == pytest.approx(0.1)


def test_a_process_on_a_gpu_is_the_difference_that_it_makes() -> None:
    """40 of 80 GiB are others' all along; the process takes 1 GiB, half of which are its own tensors."""

    def ask(gpu: int | None, look: Callable[[], float]) -> tuple[FreshProcess, float]:
        assert gpu == 0
        return FreshProcess(resident_bytes=5e9, reserved_bytes=GIB / 2), look()

    figures = ProcessMemoryProbe(ask=ask).measure(GpuStandIn({}, free=[40 * GIB, 39 * GIB]))
    assert {name: figure.value for name, figure in figures.items()} == {"context_bytes": GIB / 2}


def test_on_a_cpu_only_one_rank_asks() -> None:
    def ask(gpu: int | None, look: Callable[[], float]) -> tuple[FreshProcess, float]:
        pytest.fail("asked")

    assert ProcessMemoryProbe(leads=False, ask=ask).measure(CpuMachine()) == {}


def test_a_fresh_process_of_this_machine() -> None:
    told, looked = ask_fresh_process(None, lambda: 7.0)
    assert looked == 7.0
    assert 5e7 < told.resident_bytes < 5e9
    assert told.live_bytes > 2e8
    assert 0.9 < told.churned_bytes / told.live_bytes < 1.5


def _script(folder: Path, text: str) -> list[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    return [sys.executable, str(script)]


def test_it_is_looked_at_while_the_process_is_there(tmp_path: Path) -> None:
    """Neither before it has told what it holds, nor after it has gone."""
    script = f"""
        import json, pathlib, sys
        there = pathlib.Path({str(tmp_path / "there")!r})
        there.write_text(sys.argv[1])
        print(json.dumps({{"resident_bytes": 1.0, "reserved_bytes": 2.0}}), flush=True)
        sys.stdin.read()
        there.unlink()
    """
    there = tmp_path / "there"
    told, looked = ask_fresh_process(3, lambda: float(there.read_text()), command=_script(tmp_path, script))
    assert told == FreshProcess(resident_bytes=1.0, reserved_bytes=2.0)
    assert looked == 3.0


def test_a_process_that_fails_is_one_line(tmp_path: Path) -> None:
    command = _script(tmp_path, "import sys; sys.exit('no driver')")
    with pytest.raises(UnavailableError, match=r"^a fresh process ended before it reported its memory: no driver$"):
        ask_fresh_process(None, lambda: 0.0, command=command)


def test_a_process_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    command = _script(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(UnavailableError, match="no message"):
        ask_fresh_process(None, lambda: 0.0, command=command, patience_seconds=0.5)


class CudaMemory:
    """torch's counters of a GPU whose allocator rounds up by a quarter, with 10 GiB taken before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        counts = {
            "memory_reserved": 10 * GIB,
            "memory_allocated": 8 * GIB,
            "max_memory_reserved": 15 * GIB,
            "max_memory_allocated": 12 * GIB,
        }
        for name, value in counts.items():
            monkeypatch.setattr(torch.cuda, name, self._counter(name, value))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.calls.append("empty"))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: self.calls.append("reset"))
        monkeypatch.setattr(memory_probe, "churn", lambda *_: self.calls.append("churn"))

    def _counter(self, name: str, value: float) -> Callable[[torch.device], float]:
        def count(_: torch.device) -> float:
            self.calls.append(name)
            return value

        return count


def test_the_allocator_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 GiB more reserved for 4 GiB more of tensors; what was there before is nobody's overhead."""
    memory = CudaMemory(monkeypatch)
    figures = AllocatorProbe().measure(GpuStandIn({}, free=[70 * GIB]))
    assert figures["allocator_overhead"].value == 0.25
    assert figures["allocator_overhead"].unit == "share"
    assert memory.calls[:2] == ["empty", "reset"]
    assert (
        memory.calls.index("memory_reserved") < memory.calls.index("churn") < memory.calls.index("max_memory_reserved")
    )


def test_the_allocator_is_not_tried_without_memory() -> None:
    with pytest.raises(UnavailableError, match=r"GiB, 1\.0 GiB are free"):
        AllocatorProbe().measure(GpuStandIn({}, free=[GIB, GIB]))


def test_a_cpu_has_no_allocator_of_its_own() -> None:
    with pytest.raises(UnavailableError, match="measured in a separate process"):
        AllocatorProbe().measure(CpuMachine())


def _communicator() -> tuple[dict[str, float], list[str]]:
    ranks = joined(("a", "a"))
    machine = CpuMachine(ranks)
    figures = CommunicatorProbe(ranks).measure(machine)
    names = [type(probe).__name__ for probe in memory_probes(ranks, machine)]
    return {name: figure.value for name, figure in figures.items()}, names


def test_a_communicator_here() -> None:
    for figures, names in run_world(2, _communicator):
        assert 0 <= figures["communicator_bytes"] < 1e9
        assert names == ["ProcessMemoryProbe", "CommunicatorProbe"]


def _growing(monkeypatch_bytes: list[float]) -> float:
    ranks = joined(("a", "a"))
    memory = iter(monkeypatch_bytes)
    memory_probe._taken_bytes = lambda machine: lambda: next(memory)  # in a process of its own
    return CommunicatorProbe(ranks).measure(CpuMachine(ranks))["communicator_bytes"].value


def test_a_communicator_is_what_grows_beyond_the_message() -> None:
    assert run_world(2, _growing, [100e6, 100e6 + 2**20 + 5e6]) == [5e6, 5e6]


def test_memory_of_a_gpu_is_taken_as_it_gets_less_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([5 * GIB, 3 * GIB])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(free), 80 * GIB))
    taken = memory_probe._taken_bytes(GpuStandIn({}))
    before = taken()
    assert taken() - before == 2 * GIB


def test_a_fresh_process_on_a_gpu_multiplies_once_and_tells_what_its_allocator_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    @contextmanager
    def device(index: int) -> Iterator[None]:
        done.append(f"on GPU {index}")
        yield

    def ones(*size: int, device: str) -> torch.Tensor:
        done.append(f"{size} on {device}")
        return torch.zeros(size)

    monkeypatch.setattr(fresh_process, "resident_bytes", lambda: 3e8)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch, "mm", lambda a, b: done.append("matmul"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 7 * (done[-1] == "wait"))
    assert fresh_process._measure(1) == FreshProcess(resident_bytes=3e8, reserved_bytes=7.0)
    assert done == ["on GPU 1", "(64, 64) on cuda", "matmul", "wait"]


def test_one_rank_has_no_communicator() -> None:
    assert [type(probe).__name__ for probe in memory_probes(None, CpuMachine())] == ["ProcessMemoryProbe"]
    assert [type(probe).__name__ for probe in memory_probes(None, GpuStandIn({}))] == [
        "ProcessMemoryProbe",
        "AllocatorProbe",
    ]


def test_what_a_process_tells_is_a_line_of_json() -> None:
    told = FreshProcess(1.0, 2.0, 3.0, 4.0)
    assert FreshProcess(**json.loads(json.dumps(told.__dict__))) == told
