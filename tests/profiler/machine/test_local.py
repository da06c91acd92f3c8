"""This machine as a cluster, with the driver's tool and the measurement replaced."""

from importlib.metadata import version
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.base.processes import cpu_model, usable_cores
from shardwright.catalog import devices as catalog
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.profile_attachment import with_profile
from shardwright.profiler.machine import local
from shardwright.profiler.machine.cpu_rates import CpuRates, CpuSetting
from shardwright.profiler.machine.local import local_cluster, newest_of_this_machine, resolve_cluster
from shardwright.profiler.machine.nvidia_smi import ReportedGpu
from shardwright.profiler.machine.store import store_folder
from shardwright.specs.profile import Profile, write_profile
from tests.reports.made_up_profile import fingerprint

H100 = ReportedGpu(index=0, uuid="GPU-a", name="NVIDIA H100 80GB HBM3", memory_bytes=81559 * 2**20)


class Bench:
    """Round numbers in place of a measurement, and a count of how often it was asked for."""

    def __init__(self, cpu_share: float = 1.0) -> None:
        self.settings: list[CpuSetting] = []
        self.cpu_share = cpu_share

    def __call__(self, setting: CpuSetting) -> CpuRates:
        self.settings.append(setting)
        several = setting.ranks > 1
        return CpuRates(
            setting=setting,
            date="2026-01-02",
            fp32_flops_per_s=50e9,
            bf16_flops_per_s=10e9,
            fp32_attention_flops_per_s=30e9,
            bf16_attention_flops_per_s=40e9,
            elementwise_bytes_per_s=15e9,
            copy_bytes_per_s=20e9,
            dispatch_seconds=3e-6,
            link_bytes_per_s=2e9 if several else None,
            link_latency_seconds=70e-6 if several else None,
            process_bytes=280e6,
            cpu_share=self.cpu_share,
        )


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, 32 GB, no GPU, nothing remembered, no profile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(local, "reported_gpus", lambda: ())
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "available_memory_bytes", lambda: 32e9)


class TestCpu:
    def test_each_rank_is_a_device_with_its_share(self) -> None:
        (group,) = local_cluster(2, measure=Bench()).groups
        device = group.device
        assert (group.nodes, group.devices_per_node, device.kind) == (1, 2, "cpu")
        assert (device.memory_bytes, device.multiprocessors, device.context_bytes) == (16e9, 2, 280e6)
        assert (group.host.cores, group.host.memory_bytes, group.host.memory_bytes_per_s) == (4, 32e9, 40e9)

    def test_rates_are_the_measured_ones(self) -> None:
        """bf16 may well be slower than fp32 on a CPU: it is taken as measured."""
        (group,) = local_cluster(2, measure=Bench()).groups
        assert group.device.peak_flops_per_s == {"fp32": 50e9, "bf16": 10e9}
        assert group.device.attention_flops_per_s == {"fp32": 30e9, "bf16": 40e9}
        assert (group.device.memory_bytes_per_s, group.device.launch_seconds) == (15e9, 3e-6)
        link = group.intra_node
        assert (link.kind, link.bytes_per_s, link.latency_seconds) == ("shared-memory", 2e9, 70e-6)

    def test_every_figure_names_its_source(self) -> None:
        (group,) = local_cluster(2, measure=Bench()).groups
        others = {
            "name",
            "kind",
            "generation",
            "memory_reserve",
            "keeps_clock",
            "power_watts",
            "matmul_watts",
            "exponentials_per_s",
            "sources",
            "multiprocessors",
            "matmul_share_by_format",
        }
        figures = set(type(group.device).model_fields) - others
        assert set(group.device.sources) == figures
        assert "measured on this machine on 2026-01-02" in group.device.sources["peak_flops_per_s"]
        assert all("given by the user" not in part.source for part in (group.intra_node, group.host_link, group.host))

    @pytest.mark.parametrize(("cores", "ranks"), [(1, 1), (2, 2), (64, 2)])
    def test_the_default_is_two_ranks_where_there_are_two_cores(
        self, monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int
    ) -> None:
        monkeypatch.setattr(local, "usable_cores", lambda: cores)
        assert local_cluster(measure=Bench()).devices == ranks

    def test_one_rank_needs_no_link(self) -> None:
        (group,) = local_cluster(1, measure=Bench()).groups
        assert group.intra_node.source == "one rank: nothing is sent"

    def test_a_second_look_measures_nothing(self) -> None:
        bench = Bench()
        assert local_cluster(2, measure=bench) == local_cluster(2, measure=bench)
        assert len(bench.settings) == 1

    def test_refresh_measures_again(self) -> None:
        bench = Bench()
        local_cluster(2, measure=bench)
        local_cluster(2, refresh=True, measure=bench)
        assert len(bench.settings) == 2

    def test_disturbed_rates_say_so_and_are_measured_again(self) -> None:
        bench = Bench(cpu_share=0.5)
        (group,) = local_cluster(2, measure=bench).groups
        assert "while other programs left 50% of the CPU" in group.device.sources["peak_flops_per_s"]
        local_cluster(2, measure=bench)
        assert len(bench.settings) == 2

    def test_other_ranks_are_measured_apart(self) -> None:
        bench = Bench()
        for ranks in (1, 2, 4):
            local_cluster(ranks, measure=bench)
        assert [setting.threads for setting in bench.settings] == [4, 2, 1]

    @pytest.mark.parametrize("ranks", [0, -1])
    def test_no_ranks(self, ranks: int) -> None:
        with pytest.raises(SpecError, match="the count of ranks is a whole number from 1"):
            local_cluster(ranks, measure=Bench())

    def test_more_ranks_than_a_host_holds(self) -> None:
        with pytest.raises(SpecError, match="a CPU host holds at most 8 ranks; give local:8"):
            local_cluster(9, measure=Bench())


class TestReference:
    @pytest.mark.parametrize(("reference", "ranks"), [("local", 2), ("local:3", 3), (" local:3 ", 3)])
    def test_this_machine(self, reference: str, ranks: int) -> None:
        for count in (2, 3):
            local_cluster(count, measure=Bench())  # remembered, so that nothing is measured for real
        assert resolve_cluster(reference).devices == ranks

    def test_another_cluster(self) -> None:
        assert resolve_cluster("h100-sxm:16") == load_cluster("h100-sxm:16")

    @pytest.mark.parametrize("count", ["", "two", "-1", "2.0", "nan", "٣"])
    def test_a_count_that_is_none(self, count: str) -> None:
        with pytest.raises(SpecError, match="give a whole number such as local:2"):
            resolve_cluster(f"local:{count}")

    def test_no_ranks(self) -> None:
        with pytest.raises(SpecError, match="the count of ranks is a whole number from 1"):
            resolve_cluster("local:0")


class TestGpu:
    @staticmethod
    def _show(monkeypatch: pytest.MonkeyPatch, *gpus: ReportedGpu) -> None:
        monkeypatch.setattr(local, "reported_gpus", lambda: gpus)

    def test_gpus_are_looked_up_in_the_catalog(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._show(monkeypatch, H100, H100, H100)
        bench = Bench()
        (group,) = local_cluster(measure=bench).groups
        assert group.device == catalog.device("h100-sxm")
        assert (group.nodes, group.devices_per_node, group.intra_node.kind) == (1, 3, "nvswitch")
        assert (group.host.cores, group.host.memory_bytes) == (4, 32e9)
        assert not bench.settings

    def test_fewer_ranks_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._show(monkeypatch, H100, H100)
        assert local_cluster(1).devices == 1

    def test_more_ranks_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._show(monkeypatch, H100, H100)
        with pytest.raises(SpecError, match="local:8: this machine shows 2 GPUs; give local:2"):
            local_cluster(8)

    def test_a_gpu_that_the_catalog_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._show(monkeypatch, ReportedGpu(index=0, uuid="GPU-a", name="Quadro K600", memory_bytes=2**30))
        with pytest.raises(SpecError, match="the catalog has no 'Quadro K600' of 1 GiB; describe it in a cluster file"):
            local_cluster()

    def test_several_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._show(
            monkeypatch, H100, ReportedGpu(index=1, uuid="GPU-b", name="NVIDIA L40S", memory_bytes=46068 * 2**20)
        )
        with pytest.raises(SpecError, match=r"several kinds of GPU \(NVIDIA H100 80GB HBM3, NVIDIA L40S\)"):
            local_cluster()


class TestProfiles:
    """The newest profile of this machine comes with its cluster."""

    @staticmethod
    def _store(name: str, **changes: object) -> Profile:
        store_folder().mkdir(parents=True, exist_ok=True)
        here = {"device": cpu_model(), "cores": 4, "ranks": 2, "threads": 2, "torch": version("torch")}
        profile = Profile(fingerprint=fingerprint(**(here | changes)))
        write_profile(store_folder() / name, profile)
        return profile

    def test_none_is_there(self) -> None:
        assert local_cluster(2, measure=Bench()).groups[0].profile is None
        assert newest_of_this_machine() is None

    def test_a_cpu_shared_by_as_many_ranks(self) -> None:
        profile = self._store("a.json")
        assert local_cluster(2, measure=Bench()).groups[0].profile == profile
        assert local_cluster(1, measure=Bench()).groups[0].profile is None

    def test_for_looking_at_any_ranks_will_do(self) -> None:
        profile = self._store("a.json", ranks=4)
        found = newest_of_this_machine()
        assert found is not None
        assert found[0].name == "a.json"
        assert found[1] == profile

    def test_the_card_by_its_reported_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "reported_gpus", lambda: (H100, H100))
        card = {"kind": "gpu", "device_memory_bytes": 85.0e9, "cores": 96}
        self._store("pcie.json", device="NVIDIA H100 PCIe", **card)
        assert local_cluster().groups[0].profile is None
        profile = self._store("sxm.json", device=H100.name, **card)
        assert local_cluster().groups[0].profile == profile

    def test_it_fits_the_cluster_that_it_came_with(self) -> None:
        profile = self._store("a.json")
        cluster = local_cluster(2, measure=Bench())
        assert with_profile(cluster, profile, source="a.json") == cluster


class TestThisMachine:
    """What the system says, read for real."""

    def test_cores_and_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        assert 1 <= usable_cores() <= 4096
        assert 1e7 < local.available_memory_bytes() < 1e14
        assert cpu_model().strip()

    def test_files_that_the_control_group_keeps_are_as_good_as_free(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(local, "CONTROL_GROUP", tmp_path)
        (tmp_path / "memory.max").write_text("9000\n")
        (tmp_path / "memory.current").write_text("8000\n")
        (tmp_path / "memory.stat").write_text("anon 5000\nfile 3000\ninactive_file 2500\n")
        assert local.available_memory_bytes() == 9000 - 8000 + 2500
