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


class TestMixed:
    """Groups that differ in more than their number of nodes."""

    def test_ranks_of_the_pipeline_lie_in_the_order_of_the_groups(self) -> None:
        mixed = load_cluster("h100-sxm:16+a100:8")
        assert mixed.groups_of_ranks(6, 4) == (0, 0, 0, 0, 1, 1)
        assert mixed.in_order([1, 0]).groups_of_ranks(3, 8) == (0, 1, 1)
        assert load_cluster("h100-sxm:16").groups_of_ranks(4, 4) == (0, 0, 0, 0)

    def test_a_rank_over_two_groups_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"rank 1 would have devices of two groups .* is 12; allowed: 1, 2, 4, 8,"):
            load_cluster("h100-sxm:16+a100:8").groups_of_ranks(2, 12)

    def test_more_ranks_than_devices_are_refused(self) -> None:
        with pytest.raises(SpecError, match="4 pipeline ranks of 8 devices are more than the 24 devices"):
            load_cluster("h100-sxm:16+a100:8").groups_of_ranks(4, 8)

    def test_groups_that_differ_in_their_nodes_alone_are_one_fabric(self, two_nodes: ClusterSpec) -> None:
        both = load_cluster("h100-sxm:8+h100-sxm:16")
        assert not both.is_mixed
        assert both.node.device == two_nodes.node.device
        assert both.model_copy(update={"between": both.node.nic}).is_mixed

    def test_it_has_no_node_that_stands_for_all(self) -> None:
        """What asks for one does not know of groups, and must not take the first for all."""
        mixed = load_cluster("h100-sxm:8+a100:8")
        with pytest.raises(SpecError, match="is a mixed cluster"):
            _ = mixed.node
        assert mixed.alone(1).node == mixed.groups[1]

    def test_the_link_between_groups_is_the_bottleneck_of_ranks_on_both_sides(self) -> None:
        slow = load_cluster("h100-sxm:8@ethernet-10g").groups[0].nic
        islands = load_cluster("h100-sxm:16+h100-sxm:16").model_copy(update={"between": slow})
        assert slow is not None
        assert islands.bottleneck_link((0, 16)).bytes_per_s == slow.bytes_per_s / 8
        assert islands.bottleneck_link((0, 8)).kind == "infiniband"

    def test_a_link_between_without_several_groups_is_refused(self, two_nodes: ClusterSpec) -> None:
        data = two_nodes.model_dump() | {"between": two_nodes.node.intra_node.model_dump()}
        with pytest.raises(SpecError, match="there is one group; leave it out"):
            ClusterSpec.parse(data, source="here")

    def test_groups_that_nothing_joins_are_refused(self) -> None:
        groups = [load_cluster(name).groups[0].model_dump() | {"nic": None} for name in ("rtx-4090:1", "rtx-3090:1")]
        with pytest.raises(SpecError, match="group 1 has no key 'nic', and no key 'between'"):
            ClusterSpec.parse({"name": "box", "groups": groups}, source="here")


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
