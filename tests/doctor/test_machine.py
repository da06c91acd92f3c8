import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from shardwright.base import install
from shardwright.doctor import machine, torch_here
from shardwright.profiler.machine import ReportedGpu

H100 = ReportedGpu(0, "GPU-0", "NVIDIA H100 80GB HBM3", 81559 * 2**20)
UNKNOWN = ReportedGpu(1, "GPU-1", "NVIDIA H9000", 81559 * 2**20)


def see(monkeypatch: pytest.MonkeyPatch, *gpus: ReportedGpu) -> None:
    monkeypatch.setattr(torch_here, "reported_gpus", lambda: gpus)
    monkeypatch.setattr(machine, "reported_gpus", lambda: gpus)


class TestGpus:
    def test_each_is_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        see(monkeypatch, H100, UNKNOWN)
        known, unknown = (one for one in torch_here.torch_here() if one.name.startswith("GPU "))
        assert known.state == "there"
        assert known.found.endswith(": h100-sxm in the catalog")
        assert unknown.state == "limited"
        assert "cluster file" in (unknown.advice or "")

    @pytest.mark.parametrize(
        ("built_for", "seen", "state", "advice"),
        [
            (None, 0, "limited", "install a build of torch with CUDA"),
            ("13.0", 0, "limited", "torch sees 0 of 2 GPUs"),
            ("13.0", 2, "there", ""),
        ],
    )
    def test_what_torch_can_use(
        self, built_for: str | None, seen: int, state: str, advice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        see(monkeypatch, H100, H100)
        monkeypatch.setattr(torch.version, "cuda", built_for)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
        (cuda,) = (one for one in torch_here.torch_here() if one.name == "CUDA")
        assert cuda.state == state
        assert advice in (cuda.advice or "")

    def test_none_is_no_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        see(monkeypatch)
        assert all(one.state == "there" for one in torch_here.torch_here())


class TestLimits:
    def test_a_container_with_its_usual_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        see(monkeypatch, H100)
        usage = shutil.disk_usage("/")._replace(total=64 * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(resource, "getrlimit", lambda which: (64 * 2**10, 64 * 2**10))
        shared, locked = machine.limits()
        assert "--shm-size" in (shared.advice or "")
        assert "memlock" in (locked.advice or "")

    def test_they_matter_with_gpus_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        see(monkeypatch)
        assert not list(machine.limits())


def test_a_folder_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    here, temporary = machine.disks()
    assert (here.state, temporary.state) == ("limited", "there")
    assert str(tmp_path) in here.found


def test_a_compiler_is_found_where_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    see(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.compiler().state == "missing"
    program = tmp_path / "my-c++"
    program.touch(0o755)
    monkeypatch.setenv("CXX", str(program))
    assert machine.compiler().found == str(program)


def test_the_newest_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert machine.profile().advice


def test_a_machine_without_psutil_is_examined_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner alone is installed without it."""
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(
        machine, "newest_of_this_machine", lambda: pytest.fail("looked at the profiles, which needs psutil")
    )
    found = machine.profile()
    assert found.state == "limited"
    assert found.advice == install("run")
