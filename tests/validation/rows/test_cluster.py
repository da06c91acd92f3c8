"""The cluster that a row ran on."""

import pytest

from shardwright.catalog import standard_node as catalog_node
from shardwright.validation.rows.cluster import cluster_of_row
from shardwright.validation.table.table import SkippedRowError
from tests.validation.fake_costs import standard_node
from tests.validation.made_up_rows import row


def test_a_row_without_network_gets_the_standard_node_and_says_so() -> None:
    cluster, assumptions = cluster_of_row(row(gpus_per_node=None), standard_node)
    (group,) = cluster.groups
    assert (group.nodes, group.devices_per_node, group.device.name) == (8, 8, "A100-SXM-80GB")
    assert group.node_bytes_per_s == 8 * 25e9
    assert assumptions == ["devices per node of the standard node", "network of the standard node"]


@pytest.mark.parametrize(
    ("interconnect", "kind", "node_gigabits"),
    [
        ("4 x 100 Gb RoCE per node (inter-machine)", "roce", 400),
        ("1600 Gb/s RoCE per node", "roce", 1600),
        ("400 Gb/s RDMA per GPU, NVLink intra-node", "infiniband", 3200),
        ("Selene: 8x HDR 200 Gb/s IB per node", "infiniband", 1600),
        ("Selene: 8x 200 Gb/s HDR IB per node", "infiniband", 1600),
        ("Jean Zay V100: 4x Omni-Path 100 Gb/s per node (from memory)", "infiniband", 400),
        ("400 Gb/s CX-7 per GPU, NVLink intra-node", "infiniband", 3200),
    ],
)
def test_a_stated_rate_is_read(interconnect: str, kind: str, node_gigabits: float) -> None:
    cluster, assumptions = cluster_of_row(row(interconnect=interconnect), standard_node)
    (group,) = cluster.groups
    assert group.nic is not None
    assert group.nic.kind == kind
    assert 8 * group.node_bytes_per_s == pytest.approx(node_gigabits * 1e9)
    assert interconnect in group.nic.source
    assert assumptions == []


@pytest.mark.parametrize("interconnect", ["DGX H100 SuperPOD", "NVLink intra-node"])
def test_a_name_without_a_rate_leaves_the_standard_network(interconnect: str) -> None:
    cluster, assumptions = cluster_of_row(row(interconnect=interconnect), standard_node)
    assert cluster.groups[0].node_bytes_per_s == 8 * 25e9
    assert assumptions == ["network of the standard node"]


def test_fewer_devices_than_a_node_are_a_part_of_one() -> None:
    cluster, assumptions = cluster_of_row(row(gpus=3, dp=3, gpus_per_node=8), standard_node)
    assert (cluster.groups[0].nodes, cluster.groups[0].devices_per_node) == (1, 3)
    assert assumptions == []


def test_the_stated_node_size_wins() -> None:
    cluster, _ = cluster_of_row(row(gpus_per_node=4), standard_node)
    assert (cluster.groups[0].nodes, cluster.groups[0].devices_per_node) == (16, 4)


def test_a_remark_is_no_part_of_the_device() -> None:
    cluster, _ = cluster_of_row(row(gpu="H100-SXM-80GB (power limited)"), standard_node)
    assert cluster.groups[0].device.name == "H100-SXM-80GB"


def test_the_device_count_follows_from_the_mesh() -> None:
    cluster, _ = cluster_of_row(row(gpus=None, tp=2, dp=32), standard_node)
    assert cluster.devices == 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "TPU v9"}, "device 'TPU v9' is not in the catalog"),
        ({"gpu": None}, "device or device count unknown"),
        ({"gpus": None, "dp": None}, "device or device count unknown"),
        ({"gpus": 12}, "fill no whole nodes"),
    ],
)
def test_what_is_no_known_cluster_says_why(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        cluster_of_row(row(**changes), standard_node)


class TestShares:
    def test_a_node_of_four_has_half_of_the_nics_and_of_the_host(self) -> None:
        cluster, _ = cluster_of_row(row(gpus_per_node=4), standard_node)
        assert cluster.node.node_bytes_per_s == 4 * 25e9
        assert (cluster.node.host.cores, cluster.node.host.memory_bytes) == (32, 500e9)

    def test_a_stated_number_of_nics_wins(self) -> None:
        cluster, _ = cluster_of_row(row(gpus_per_node=4, interconnect="4 x 100 Gb RoCE per node"), standard_node)
        assert cluster.node.node_bytes_per_s == 4 * 12.5e9


class TestRacks:
    @pytest.mark.parametrize(("gpus", "racks"), [(128, 2), (256, 4), (512, 8)])
    def test_gpus_per_node_up_to_four_is_the_tray(self, gpus: int, racks: int) -> None:
        cluster, _ = cluster_of_row(row(gpu="GB200", gpus=gpus, gpus_per_node=4), catalog_node)
        node = cluster.node
        assert (node.nodes, node.devices_per_node, node.devices_per_host, node.nics_per_node) == (racks, 64, 4, 64)
        assert node.host.cores == 144

    def test_more_are_the_devices_of_each_rack(self) -> None:
        cluster, _ = cluster_of_row(row(gpu="GB200", gpus=64, gpus_per_node=8), catalog_node)
        assert (cluster.node.nodes, cluster.node.devices_per_node, cluster.node.nics_per_node) == (8, 8, 8)

    @pytest.mark.parametrize(
        "interconnect", ["4 x 400 Gb InfiniBand", "1600 Gb/s InfiniBand per node", "400 Gb/s IB per GPU"]
    )
    def test_a_rate_per_node_is_of_a_tray(self, interconnect: str) -> None:
        """64 devices of a rack are 16 trays of 4 x 50 GB/s."""
        given = row(gpu="GB200", gpus=256, gpus_per_node=4, interconnect=interconnect)
        assert cluster_of_row(given, catalog_node)[0].node.node_bytes_per_s == pytest.approx(64 * 50e9)

    def test_a_count_that_racks_cannot_share_is_skipped(self) -> None:
        with pytest.raises(SkippedRowError, match="fill no whole nodes"):
            cluster_of_row(row(gpu="GB200", gpus=73, gpus_per_node=4), catalog_node)


def test_torchao_ran_on_the_h100_of_torchtitans_tables() -> None:
    """Its tables do not say which H100; its developers' logs show 95 GiB."""
    cluster, assumptions = cluster_of_row(
        row(gpu="H100 (variant not stated)", framework="torchtitan + torchao"), catalog_node
    )
    assert cluster.node.device.memory_bytes > 90e9
    assert "the H100 with 96 GB and 500 W of torchtitan's tables" in assumptions
    other, _ = cluster_of_row(row(gpu="H100 (variant not stated)", framework="torchtitan"), catalog_node)
    assert other.node.device.memory_bytes < 90e9
