"""The cluster's numbers, and which link a group of ranks shares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.devices import standard_node
from shardwright.specs.cluster import FABRIC, ClusterSpec


@pytest.fixture(scope="module")
def two_nodes() -> ClusterSpec:
    return load_cluster("h100-sxm:16")


def test_a_node_sends_through_all_its_nics(two_nodes: ClusterSpec) -> None:
    assert two_nodes.devices == 16
    assert two_nodes.groups[0].node_bytes_per_s == 8 * 50e9


def test_the_graph_is_a_tree_over_every_rank(two_nodes: ClusterSpec) -> None:
    graph = two_nodes.graph()
    assert graph.number_of_nodes() == 1 + 2 + 16
    assert graph.number_of_edges() == graph.number_of_nodes() - 1
    assert set(graph.neighbors(FABRIC)) == {("node", 0), ("node", 1)}
    assert ("rank", 8) in graph.neighbors(("node", 1))


def test_ranks_of_one_node_share_its_own_link(two_nodes: ClusterSpec) -> None:
    assert not two_nodes.spans_nodes(range(8))
    assert two_nodes.bottleneck_link(range(8)).kind == "nvswitch"


def test_ranks_of_two_nodes_share_the_fabric(two_nodes: ClusterSpec) -> None:
    assert two_nodes.spans_nodes((7, 8))
    link = two_nodes.bottleneck_link((7, 8))
    assert (link.kind, link.bytes_per_s) == ("infiniband", 50e9)


def test_the_devices_of_a_node_share_its_nics() -> None:
    link = load_cluster("h100-sxm:16@2x-roce-100g").bottleneck_link((0, 8))
    assert (link.kind, link.bytes_per_s) == ("roce", 2 * 12.5e9 / 8)


def test_oversubscription_divides_the_fabric_only(two_nodes: ClusterSpec) -> None:
    congested = two_nodes.model_copy(update={"oversubscription": 4.0})
    assert congested.bottleneck_link((0, 8)).bytes_per_s == two_nodes.bottleneck_link((0, 8)).bytes_per_s / 4
    assert congested.bottleneck_link((0, 1)) == two_nodes.bottleneck_link((0, 1))


def test_the_slower_link_counts_where_a_node_is_slower_than_its_nics() -> None:
    """Cards without peer-to-peer pass 15.75 GB/s; one 200 GB/s NIC for 8 would give each 25."""
    link = load_cluster("rtx-4090:16@2x-infiniband-xdr").bottleneck_link((0, 8))
    assert (link.kind, link.bytes_per_s) == ("pcie", 15.75e9)


def test_ranks_are_numbered_node_by_node_over_all_groups(two_nodes: ClusterSpec) -> None:
    one = two_nodes.groups[0].model_copy(update={"nodes": 1})
    both = ClusterSpec(name="both", groups=(one, two_nodes.groups[0]))
    assert [both.node_of(rank) for rank in (0, 7, 8, 15, 16, 23)] == [0, 0, 1, 1, 2, 2]
    assert not both.spans_nodes((16, 23))
    assert both.graph().number_of_nodes() == 1 + 3 + 24


@settings(deadline=None)  # the first call imports networkx
@given(nodes=st.integers(1, 6), per_node=st.integers(1, 9), data=st.data())
def test_node_of_agrees_with_the_graph(nodes: int, per_node: int, data: st.DataObject) -> None:
    group = load_cluster("h100-sxm:8").groups[0].model_copy(update={"nodes": nodes, "devices_per_node": per_node})
    cluster = ClusterSpec(name="any", groups=(group,))
    rank = data.draw(st.integers(0, cluster.devices - 1))
    assert list(cluster.graph().neighbors(("rank", rank))) == [("node", cluster.node_of(rank))]


@pytest.mark.parametrize("rank", [-1, 16])
def test_a_rank_outside_the_cluster_is_named(two_nodes: ClusterSpec, rank: int) -> None:
    with pytest.raises(SpecError, match=f"no rank {rank} in cluster 'h100-sxm:16': it has ranks 0 to 15"):
        two_nodes.bottleneck_link((0, rank))


def test_one_rank_shares_no_link(two_nodes: ClusterSpec) -> None:
    with pytest.raises(SpecError, match="two ranks or more"):
        two_nodes.bottleneck_link((3, 3))


def test_a_fabric_faster_than_its_links_is_refused(two_nodes: ClusterSpec) -> None:
    data = two_nodes.model_dump() | {"oversubscription": 0.5}
    with pytest.raises(SpecError, match=r"'oversubscription' is 0\.5"):
        ClusterSpec.parse(data, source="here")


def test_two_kinds_of_device_are_refused(two_nodes: ClusterSpec) -> None:
    groups = [two_nodes.groups[0].model_dump(), load_cluster("a100:8").groups[0].model_dump()]
    with pytest.raises(SpecError, match="several kinds of device"):
        ClusterSpec.parse({"name": "mixed", "groups": groups}, source="here")


def test_unequal_nodes_are_refused(two_nodes: ClusterSpec) -> None:
    """Else the cost model would take the first group's nodes for all."""
    group = two_nodes.groups[0]
    device = group.device.model_copy(update={"memory_bytes": 102e9})
    groups = [group.model_dump(), group.model_copy(update={"device": device, "nics_per_node": 4}).model_dump()]
    with pytest.raises(SpecError, match="group 2 differs from group 1 in device, nics_per_node; unequal nodes"):
        ClusterSpec.parse({"name": "mixed", "groups": groups}, source="here")


def test_a_cluster_survives_json(two_nodes: ClusterSpec) -> None:
    assert ClusterSpec.model_validate_json(two_nodes.model_dump_json()) == two_nodes


class TestPart:
    def test_four_of_a_rack_keep_four_nics_and_a_whole_tray(self) -> None:
        part = standard_node("gb200").part(4)
        assert (part.devices_per_node, part.nics_per_node, part.devices_per_host) == (4, 4, 4)
        assert part.host == standard_node("gb200").host

    def test_two_of_a_tray_have_half_of_its_host(self) -> None:
        part = standard_node("gb200").part(2)
        assert (part.nics_per_node, part.devices_per_host, part.host.cores, part.host.memory_bytes) == (2, 2, 72, 480e9)

    def test_an_odd_share_of_nics_is_rounded_up(self) -> None:
        """DGX-1V: 4 NICs of 8 devices; 3 devices have 1.5 of them."""
        assert standard_node("v100").part(3).nics_per_node == 2

    def test_wires_to_devices_that_are_gone_are_gone(self) -> None:
        """Of an MI300X's 7 wires of 64 GB/s, 3 lead to the other three of four."""
        assert standard_node("mi300x").part(4).intra_node.bytes_per_s == 3 * 64e9
        assert standard_node("h100").part(4).intra_node == standard_node("h100").intra_node

    def test_a_whole_node_is_its_own_part(self) -> None:
        assert standard_node("gb200").part(72) == standard_node("gb200")


def test_a_rack_has_many_hosts_and_a_server_one() -> None:
    rack, server = standard_node("gb200"), standard_node("h100")
    assert (rack.is_rack, rack.devices_per_host) == (True, 4)
    assert (server.is_rack, server.devices_per_host) == (False, 8)
