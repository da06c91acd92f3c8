"""Where profiles lie, and which of them fits a machine."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.profiler.machine.store import (
    BrokenProfileWarning,
    MachineKey,
    default_path,
    newest_fitting,
    store_folder,
)
from shardwright.specs.profile import Profile, write_profile
from tests.reports.made_up_profile import fingerprint

CPU = MachineKey(kind="cpu", device="Cray-1", device_memory_bytes=8e9, cores=2, ranks=1, torch="2.13.1")
GPU = MachineKey(
    kind="gpu", device="NVIDIA H100 80GB HBM3", device_memory_bytes=85e9, cores=96, ranks=None, torch="2.13.0"
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "shardwright" / "profiles"
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, name: str, **changes: object) -> Path:
    """A profile of that machine and day, empty but for its fingerprint."""
    path, complete = folder / name, bool(changes.pop("complete", True))
    write_profile(path, Profile(fingerprint=fingerprint(**changes), complete=complete))
    return path


def found(key: MachineKey) -> Path | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = newest_fitting(key)
    return newest[0] if newest else None


class TestFolder:
    def test_it_is_the_users_data_folder(self, store: Path) -> None:
        assert store_folder() == store

    @pytest.mark.parametrize("named", ["", "relative/data"])
    def test_without_one_it_is_in_the_home(self, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", named)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert store_folder() == tmp_path / ".local" / "share" / "shardwright" / "profiles"

    def test_a_store_that_is_not_there_holds_nothing(self, store: Path) -> None:
        store.rmdir()
        assert found(CPU) is None


class TestDefaultPath:
    def test_it_names_the_machine_and_the_day(self, store: Path) -> None:
        assert default_path(CPU, "2026-01-02") == store / "cray-1-1-rank-torch-2.13-2026-01-02.json"
        assert default_path(GPU, "2026-01-02").name == "nvidia-h100-80gb-hbm3-torch-2.13-2026-01-02.json"

    def test_no_profile_is_written_over(self, store: Path) -> None:
        paths = []
        for _ in range(3):
            paths.append(default_path(CPU, "2026-01-02"))
            paths[-1].touch()
        endings = [path.name.partition("2026-01-02")[2] for path in paths]
        assert endings == [".json", "-2.json", "-3.json"]

    def test_one_that_was_cut_short_is_gone_on_with(self, store: Path) -> None:
        begun = default_path(CPU, "2026-01-02")
        begun.touch()  # what was measured until then
        (store / f".{begun.name}.journal").touch()
        assert default_path(CPU, "2026-01-05") == begun
        assert default_path(replace(CPU, ranks=2), "2026-01-05") != begun


class TestFitting:
    def test_the_newest_wins(self, store: Path) -> None:
        put(store, "z-old.json", date="2026-01-02T10:00:00+00:00")
        new = put(store, "a-new.json", date="2026-02-01T09:00:00+00:00")
        assert found(CPU) == new

    def test_of_one_day_the_complete_one_wins(self, store: Path) -> None:
        whole = put(store, "a.json", date="2026-01-02T10:00:00+00:00")
        put(store, "b.json", date="2026-01-02T23:00:00+00:00", complete=False)
        assert found(CPU) == whole

    def test_a_part_of_today_beats_all_of_yesterday(self, store: Path) -> None:
        put(store, "a.json", date="2026-01-01T10:00:00+00:00")
        part = put(store, "b.json", date="2026-01-02T10:00:00+00:00", complete=False)
        assert found(CPU) == part

    def test_one_that_was_cut_short_and_may_go_on_comes_last(self, store: Path) -> None:
        part = put(store, "b.json", date="2026-01-05T10:00:00+00:00", complete=False)
        (store / ".b.json.journal").touch()
        assert found(CPU) == part
        earlier = put(store, "a.json", date="2026-01-01T10:00:00+00:00", complete=False)
        assert found(CPU) == earlier

    @pytest.mark.parametrize(
        "other", [{"device": "Cray-2"}, {"cores": 4}, {"ranks": 2}, {"torch": "2.12.9"}, {"torch": "2.1.3"}]
    )
    def test_another_cpu_or_sharing_or_torch_does_not_fit(self, store: Path, other: dict[str, object]) -> None:
        put(store, "a.json", **other)
        assert found(CPU) is None

    def test_the_same_torch_but_for_its_build_fits(self, store: Path) -> None:
        path = put(store, "a.json", torch="2.13.7+cu130")
        assert found(CPU) == path

    def test_any_ranks_and_any_torch(self, store: Path) -> None:
        path = put(store, "a.json", ranks=2, torch="2.11.0")
        assert found(replace(CPU, ranks=None, torch=None)) == path

    def test_a_gpu_fits_whatever_the_ranks_and_cores(self, store: Path) -> None:
        card = {"kind": "gpu", "device": GPU.device, "device_memory_bytes": 84.9e9}
        path = put(store, "a.json", ranks=8, cores=12, **card)
        assert found(GPU) == path

    @pytest.mark.parametrize("other", [{"device": "NVIDIA H100 PCIe"}, {"device_memory_bytes": 64e9}, {"kind": "cpu"}])
    def test_another_card_does_not_fit(self, store: Path, other: dict[str, object]) -> None:
        card = {"kind": "gpu", "device": GPU.device, "device_memory_bytes": 84.9e9, "cores": 96}
        put(store, "a.json", **(card | other))
        assert found(GPU) is None


class TestBrokenFiles:
    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"kind": "shardwright-plan"}', '{"kind": "shardwright-profile"}']
    )
    def test_a_broken_one_is_left_out_with_a_warning(self, store: Path, content: str) -> None:
        good = put(store, "good.json")
        (store / "z-broken.json").write_text(content)
        with pytest.warns(BrokenProfileWarning, match=r"z-broken\.json.*left out") as told:
            newest = newest_fitting(CPU)
        assert newest is not None
        assert newest[0] == good
        assert len(told) == 1

    def test_a_half_written_newest_falls_back_to_the_one_before(self, store: Path) -> None:
        good = put(store, "good.json", date="2026-01-02T10:00:00+00:00")
        data = json.loads(put(store, "newer.json", date="2026-03-02T10:00:00+00:00").read_text())
        data["series"] = [{"operation": "matmul"}]
        (store / "newer.json").write_text(json.dumps(data))
        with pytest.warns(BrokenProfileWarning, match="axes"):
            newest = newest_fitting(CPU)
        assert newest is not None
        assert newest[0] == good

    def test_what_is_being_written_and_what_is_no_profile_is_not_looked_at(self, store: Path) -> None:
        (store / ".half.json").write_text("{")
        (store / "notes.txt").write_text("not a profile")
        (store / "folder.json").mkdir()
        assert found(CPU) is None
