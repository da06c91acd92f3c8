"""The short form and the TOML file, and one clear line for each way to get them wrong."""

from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec

OWN_NODE = """
nodes = 1
devices_per_node = 4
intra_node = "pcie-4-x16"
host_link = "pcie-4-x16"
host = { cores = 8, memory_bytes = 512e9, memory_bytes_per_s = 50e9 }
[device]
name = "ours"
memory_bytes = 48e9
memory_bytes_per_s = 1e12
peak_flops_per_s = { bf16 = 100e12 }
"""


def _load(folder: Path, text: str) -> ClusterSpec:
    path = folder / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return load_cluster(str(path))


def _refused(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        _load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'cluster.toml'}: ")
    assert message.count("cluster.toml") == 1
    return message


class TestShortForm:
    def test_full_nodes(self) -> None:
        cluster = load_cluster("h100-sxm:64")
        (group,) = cluster.groups
        assert (cluster.name, cluster.devices, group.nodes, group.devices_per_node) == ("h100-sxm:64", 64, 8, 8)

    def test_an_alias_in_capitals(self) -> None:
        assert load_cluster("A100-80GB:16").groups[0].device.name == "a100-sxm-80gb"

    def test_a_part_of_a_node_has_its_share_of_the_host_and_of_the_nics(self) -> None:
        whole, part = load_cluster("h100:8").groups[0], load_cluster("h100:2").groups[0]
        assert (part.nodes, part.devices_per_node, part.nics_per_node) == (1, 2, 2)
        assert part.host.memory_bytes == whole.host.memory_bytes / 4
        assert part.host.nvme_read_bytes_per_s == whole.host.nvme_read_bytes_per_s / 4
        assert part.host.cores == whole.host.cores / 4

    def test_a_rack_is_a_node(self) -> None:
        (group,) = load_cluster("gb200:144").groups
        assert (group.nodes, group.devices_per_node) == (2, 72)

    def test_a_rack_need_not_divide_the_job(self) -> None:
        (group,) = load_cluster("gb200:256").groups
        assert (group.nodes, group.devices_per_node, group.node_bytes_per_s) == (4, 64, 64 * 50e9)

    def test_nics_are_counted_by_tray_in_a_rack(self) -> None:
        """64 devices of a rack are 16 trays."""
        assert load_cluster("gb200:256@ethernet-100g").groups[0].nics_per_node == 16
        assert load_cluster("gb200:256@2x-roce-400g").groups[0].nics_per_node == 32

    def test_another_fabric_with_rdma_keeps_the_nics(self) -> None:
        (group,) = load_cluster("h100:64@roce-200g").groups
        assert (group.nic and group.nic.kind, group.nics_per_node, group.node_bytes_per_s) == ("roce", 8, 8 * 25e9)

    def test_slingshot_has_rdma(self) -> None:
        (group,) = load_cluster("mi250x:64@slingshot-11").groups
        assert group.node_bytes_per_s == 4 * 25e9

    def test_ethernet_is_one_nic_per_node(self) -> None:
        (group,) = load_cluster("h100:64@ethernet-100g").groups
        assert group.node_bytes_per_s == 12.5e9

    def test_counted_nics(self) -> None:
        (group,) = load_cluster("v100:64@4x-roce-100g").groups
        assert group.node_bytes_per_s == 4 * 12.5e9

    @pytest.mark.parametrize("count", ["0", "-8", "nan", "8.0", "1e3", "", "eight", "٣", "9" * 5000])
    def test_a_count_that_is_none(self, count: str) -> None:
        with pytest.raises(SpecError, match="give a whole number from 1 to 10,000,000") as caught:
            load_cluster(f"h100-sxm:{count}")
        assert "\n" not in str(caught.value)

    def test_a_count_that_fills_no_nodes_names_its_neighbours(self) -> None:
        with pytest.raises(SpecError, match="60 devices do not fill nodes of 8 h100-sxm: give 56 or 64"):
            load_cluster("h100-sxm:60")

    def test_an_unknown_device_names_the_nearest(self) -> None:
        with pytest.raises(SpecError, match=r"no device 'h100-sxn' in the catalog. Did you mean 'h100-sxm'\?"):
            load_cluster("h100-sxn:8")

    def test_an_unknown_fabric_names_the_nearest(self) -> None:
        with pytest.raises(SpecError, match=r"no fabric 'ethernet-110g'.*Did you mean 'ethernet-10?0g'\?"):
            load_cluster("h100-sxm:8@ethernet-110g")

    @pytest.mark.parametrize("fabric", ["", "0x-roce-100g"])
    def test_no_fabric_at_all(self, fabric: str) -> None:
        with pytest.raises(SpecError, match="is not a fabric; give one such as ethernet-100g"):
            load_cluster(f"h100-sxm:8@{fabric}")

    def test_a_device_without_a_count(self) -> None:
        with pytest.raises(SpecError, match="'h100' says no count of devices; write h100-sxm:8"):
            load_cluster("h100")

    @pytest.mark.parametrize("reference", ["", ":8"])
    def test_nothing(self, reference: str) -> None:
        with pytest.raises(SpecError, match="is not a cluster; give DEVICE:COUNT"):
            load_cluster(reference)

    @pytest.mark.parametrize("reference", ["local", "local:4"])
    def test_this_machine_is_not_a_file(self, reference: str) -> None:
        with pytest.raises(SpecError, match=f"'{reference}' means this machine: the command line measures it"):
            load_cluster(reference)


class TestTomlFile:
    def test_two_lines_are_a_cluster(self, tmp_path: Path) -> None:
        cluster = _load(tmp_path, 'device = "h100"\ndevices = 64')
        assert cluster == load_cluster("h100-sxm:64").model_copy(update={"name": "cluster"})

    def test_the_example_of_the_documentation(self, tmp_path: Path) -> None:
        page = Path(__file__).parents[2] / "docs" / "cluster.md"
        example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
        cluster = _load(tmp_path, example)
        (group,) = cluster.groups
        assert (cluster.name, cluster.oversubscription, cluster.devices) == ("our-h100", 2.0, 64)
        assert group.device.memory_bytes == 102e9
        assert group.device.sources["memory_bytes"] == "given by the user"
        assert group.device.peak_flops_per_s["bf16"] == 989.4e12
        assert (group.nic and group.nic.kind, group.node_bytes_per_s) == ("roce", 4 * 25e9)
        assert (group.intra_node.kind, group.intra_node.latency_seconds) == ("nvswitch", 5e-6)
        assert (group.host.memory_bytes, group.host.cores) == (1e12, 112)
        assert group.host.source.startswith("memory_bytes given by the user; the rest: NVIDIA DGX BasePOD")

    def test_every_example_of_the_documentation_is_read(self, tmp_path: Path) -> None:
        page = Path(__file__).parents[2] / "docs" / "cluster.md"
        examples = [part.split("```")[0] for part in page.read_text(encoding="utf-8").split("```toml\n")[1:]]
        assert len(examples) >= 3
        assert all(_load(tmp_path, example).devices >= 1 for example in examples)

    def test_a_device_of_ones_own(self, tmp_path: Path) -> None:
        cluster = _load(
            tmp_path,
            """
            nodes = 2
            devices_per_node = 4
            intra_node = "pcie-4-x16"
            host_link = "pcie-4-x16"
            nic = { kind = "ethernet", bytes_per_s = 1e9, latency_seconds = 1e-5 }
            host = { cores = 8, memory_bytes = 64e9, memory_bytes_per_s = 50e9 }
            [device]
            name = "ours"
            memory_bytes = 48e9
            memory_bytes_per_s = 1e12
            peak_flops_per_s = { bf16 = 100e12 }
            """,
        )
        nic = cluster.groups[0].nic
        assert (cluster.devices, cluster.groups[0].device.name, nic and nic.source) == (
            8,
            "ours",
            "given by the user",
        )

    def test_equal_groups(self, tmp_path: Path) -> None:
        text = '[[groups]]\ndevice = "a100"\nnodes = 2\n[[groups]]\ndevice = "a100"\nnodes = 1\n'
        assert _load(tmp_path, text).devices == 24

    @pytest.mark.parametrize("device", ["rtx-4090", "h100-sxm", "gb200"])
    def test_a_count_below_a_full_node_is_the_short_form_s_part_of_one(self, tmp_path: Path, device: str) -> None:
        assert _load(tmp_path, f'device = "{device}"\ndevices = 4').groups == load_cluster(f"{device}:4").groups
        grouped = _load(tmp_path, f'[[groups]]\ndevice = "{device}"\ndevices = 4\nhost = {{ cores = 7 }}')
        assert (grouped.devices, grouped.groups[0].host.cores) == (4, 7)

    def test_nodes_cut_down_have_their_share(self, tmp_path: Path) -> None:
        """Half of a DGX H100: 4 of 8 NICs, 56 of 112 cores, 1 of 2 TB; 4 of a rack keep their tray and its 4 NICs."""
        (half,) = _load(tmp_path, 'device = "h100"\nnodes = 8\ndevices_per_node = 4').groups
        assert (half.nodes, half.nics_per_node, half.host.cores, half.host.memory_bytes) == (8, 4, 56, 1e12)
        (tray,) = _load(tmp_path, 'device = "gb200"\ndevices = 64\ndevices_per_node = 4').groups
        assert (tray.nodes, tray.nics_per_node, tray.host.cores, tray.host.memory_bytes) == (16, 4, 144, 960e9)

    def test_what_the_file_says_wins_over_the_share(self, tmp_path: Path) -> None:
        text = 'device = "h100"\nnodes = 8\ndevices_per_node = 4\nnics_per_node = 8\nhost = { cores = 7 }'
        (group,) = _load(tmp_path, text).groups
        assert (group.nics_per_node, group.host.cores, group.host.memory_bytes) == (8, 7, 1e12)

    def test_racks_of_a_file_are_those_of_the_short_form(self, tmp_path: Path) -> None:
        cluster = _load(tmp_path, 'device = "gb200"\ndevices = 256')
        assert cluster.groups == load_cluster("gb200:256").groups

    def test_another_node_of_the_catalog(self, tmp_path: Path) -> None:
        (group,) = _load(tmp_path, 'device = "a100"\nnode_like = "hgx-a100-4gpu"\ndevices = 64').groups
        assert (group.nodes, group.devices_per_node, group.nics_per_node) == (16, 4, 4)
        assert (group.intra_node.kind, group.intra_node.meshed) == ("nvlink", True)

    def test_one_node_needs_no_nic_and_costs_the_same(self, tmp_path: Path) -> None:
        bare, joined = _load(tmp_path, OWN_NODE), _load(tmp_path, f'nic = "ethernet-1g"\n{OWN_NODE}')
        assert bare.groups[0].nic is None
        model = load_model("llama-3.2-1b")
        training = TrainingSpec(seq_len=1024, global_batch=16)
        for mesh in (Mesh(dp_shard=4), Mesh(tp=4), Mesh(pp=4), Mesh(dp_replicate=2, tp=2)):
            layers = (LayerRun(count=16 // mesh.pp, zero_stage=3 if mesh.dp_shard > 1 else 0),)
            plan = Plan(mesh=mesh, micro_batch=1, microbatches=16 // mesh.dp, stages=(Stage(layers=layers),) * mesh.pp)
            alone, beside = (estimate_plan(model, cluster, training, plan) for cluster in (bare, joined))
            assert alone == beside

    def test_several_nodes_without_a_nic_are_refused_with_the_fix(self, tmp_path: Path) -> None:
        message = _refused(tmp_path, OWN_NODE.replace("nodes = 1", "nodes = 2"))
        assert "2 nodes and no key 'nic': name the link between them, nic = \"ethernet-100g\"" in message
        two_groups = "[[groups]]\n" + OWN_NODE.replace("[device]", "[groups.device]")
        assert "2 nodes and no key 'nic'" in _refused(tmp_path, two_groups + two_groups)

    def test_only_what_is_still_missing_is_counted(self, tmp_path: Path) -> None:
        one = OWN_NODE.replace('host_link = "pcie-4-x16"', "")
        assert _refused(tmp_path, one).endswith("key 'host_link' is missing")
        assert "(and 1 more)" in _refused(tmp_path, one.replace('intra_node = "pcie-4-x16"', ""))

    def test_a_part_of_the_device_peaks_is_replaced_whole(self, tmp_path: Path) -> None:
        text = 'nodes = 1\ndevice = { like = "h100", peak_flops_per_s = { bf16 = 800e12 } }'
        assert _load(tmp_path, text).groups[0].device.peak_flops_per_s == {"bf16": 800e12}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("devices = [", "is not valid TOML"),
            ("nodes = 1", "key 'device' is missing: name one of the catalog"),
            ('device = "h10"\nnodes = 1', "no device 'h10' in the catalog. Did you mean 'h100'?"),
            ('device = "h100"', "no count of devices: add nodes = 8"),
            ('device = "h100"\nnode = 8', "unknown key 'node'; allowed: device, nodes"),
            ('device = "h100"\nnode = 8', "Did you mean 'nodes'?"),
            ('device = "a100"\nnodes = 1\nnode_like = "hgx-a100"', "no node 'hgx-a100' in the catalog. Did you mean"),
            ('device = "a100"\nnodes = 1\nnode_like = 4', "no node 4 in the catalog. All of them: dgx-1p"),
            ("nodes = 1\nnode_like = 'dgx-a100'\n[device]\nname = 'x'", "'node_like' needs a device of the catalog"),
            ('device = "gb200"\ndevices = 73', "racks of 72 gb200: give 72 or 80"),
            (
                'device = "h100"\nnodes = 1\nhost = { dram = 1e12 }',
                "unknown key 'host.dram'; allowed: cores, memory_bytes",
            ),
            ('nodes = 1\ndevice = { like = "h100", memory = 9e10 }', "Did you mean 'memory_bytes'?"),
            (
                'nodes = 1\ndevice = { like = "h100", memory_bytes = 0 }',
                "'device.memory_bytes' is 0: Input should be greater",
            ),
            ('nodes = 1\ndevice = { like = "h100", memory_bytes = -1 }', "greater than 0"),
            ('nodes = 1\ndevice = { like = "h100", memory_bytes = nan }', "finite number"),
            ('nodes = 1\ndevice = { like = "h100", memory_bytes = inf }', "finite number"),
            ('nodes = 1\ndevice = { like = "h100", memory_bytes = 80 }', "it is in bytes; 80 GB would be 80e9"),
            (
                'nodes = 1\ndevice = { like = "h100", memory_bytes = "80GB" }',
                "'device.memory_bytes' is '80GB'",
            ),
            ('device = "h100"\nnodes = 1\nhost = { memory_bytes = 0 }', "'host.memory_bytes' is 0"),
            ('device = "h100"\nnodes = 0', "'nodes' is 0"),
            ('device = "h100"\nnodes = -1', "'nodes' is -1"),
            ('device = "h100"\nnodes = nan', "'nodes' is nan"),
            ('device = "h100"\nnodes = 1.5', "'nodes' is 1.5"),
            ('device = "h100"\ndevices = 0', "'devices' is 0: give a whole number"),
            ('device = "h100"\ndevices = 12', "it does not fill nodes of 8; give 8 or 16"),
            ('device = "h100"\ndevices_per_node = 8\ndevices = 4', "give 8, or set devices_per_node = 4"),
            ('device = "h100"\ndevices = true', "'devices' is True"),
            ('device = "h100"\ndevices = 8\nnodes = 1', "give 'devices' or 'nodes', not both"),
            ('device = "h100"\nnodes = 1\nnic = "nvlink-4"', "no fabric 'nvlink-4'"),
            ('device = "h100"\nnodes = 1\nintra_node = "nvlink-9"', "no link 'nvlink-9' in the catalog. Did you mean"),
            ('device = "h100"\nnodes = 1\nnic = 400', "'nic' is 400: give a name of the catalog, or a table"),
            ('device = "h100"\nnodes = 1\nhost = 3', "'host' is 3: give a table"),
            ("device = 3\nnodes = 1", "'device' is 3: give a name of the catalog, or a table"),
            ("device = { like = 3 }\nnodes = 1", "give a name of the catalog, or a table"),
            ('device = "h100"\nnodes = 1\noversubscription = 0', "'oversubscription' is 0"),
            ('device = "h100"\nnodes = 1\noversubscription = nan', "'oversubscription' is nan"),
            ('device = "h100"\nnodes = 1' + 5000 * "0", "is not valid TOML"),
            ('device = "h100"\nnodes = 1' + 30 * "0", "devices are more than the 10,000,000"),
            ('nodes = 1\ndevice = { like = "h100", sources = 3 }', "'device.sources' is 3"),
            ('nodes = 1\ndevice = { like = "h100", kind = "tpu" }', "'device.kind' is 'tpu'"),
            (
                '[[groups]]\ndevice = "a100"\nnodes = 1\n[[groups]]\ndevice = "cpu-server"\nnodes = 1',
                "groups of CPUs and groups of GPUs",
            ),
            ('between = "ethernet-100g"\ndevice = "h100"\nnodes = 2', "there is one group; leave it out"),
            ("groups = 3", "'groups' is not a list of tables"),
            ("groups = []", "'groups' is not a list of tables"),
            ('nodes = 1\n[[groups]]\ndevice = "h100"', "key 'nodes' is of a group: write it in each"),
            ('nic = "roce-200g"\n[[groups]]\ndevice = "h100"\nnodes = 1', "key 'nic' is of a group: write it in each"),
            ('nmae = "x"\n[[groups]]\ndevice = "h100"\nnodes = 1', "beside groups; allowed: name, oversubscription"),
            ('[[groups]]\nname = "x"\ndevice = "h100"\nnodes = 1', "key 'name' is of the cluster: write it above"),
            ('device = "h100"\nnodes = 1\nname = ""', "'name' is ''"),
            ('between = "nvlink-9"\n[[groups]]\ndevice = "h100"\nnodes = 1', "no link 'nvlink-9'"),
            ('[[groups]]\ndevice = "a100"\nnodes = 0', "'groups.0.nodes' is 0"),
            ("nodes = 1\n[device]\nname = 'x'", "is missing"),
        ],
    )
    def test_a_mistake_is_one_clear_line(self, tmp_path: Path, text: str, says: str) -> None:
        assert says in _refused(tmp_path, text)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"none.toml: cannot be read \(No such file or directory\)"):
            load_cluster(str(tmp_path / "none.toml"))

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="cannot be read"):
            load_cluster(f"{tmp_path}/")

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SpecError, match="is not a text file in UTF-8"):
            load_cluster(str(tmp_path / "binary.toml"))

    def test_a_file_of_another_kind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("cluster.json").write_text("{}")
        with pytest.raises(SpecError, match=r"cluster.json: is not a TOML file by its name"):
            load_cluster("cluster.json")
