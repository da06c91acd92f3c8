"""Collectives of NCCL by hand, with round links: 100 GB/s and 1 us inside a node, 10 GB/s and 2 us for each GPU between nodes."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.devices import standard_node
from shardwright.costmodel.op_times.collectives.nccl import Collectives
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.specs.cluster import ClusterSpec, Link
from shardwright.specs.mesh import RankGroup
from tests.costmodel.fakes import round_cluster

# Full rates, no start, flags at 1/2 of the latency and 1/4 of the rate, one synchronisation for each chunk.
ROUND = replace(
    CALIBRATED,
    nvlink_fraction=1.0,
    nic_fraction=1.0,
    in_switch_fraction=1.0,
    collective_seconds=0.0,
    low_latency_step=0.5,
    low_latency_rate=0.25,
    chunk_fill=1.0,
)
NODE = RankGroup(ranks_per_node=4, nodes=1, sharing=1)
TWO_NODES = RankGroup(ranks_per_node=4, nodes=2, sharing=1)
NAMES: tuple[CollectiveName, ...] = get_args(CollectiveName)


def seconds(
    name: CollectiveName, size_bytes: float, group: RankGroup = NODE, cluster: ClusterSpec | None = None
) -> float:
    cluster = cluster or round_cluster()
    among = Collectives(cluster.node, ROUND, oversubscription=cluster.oversubscription)
    return float(among.seconds(name, size_bytes, group))


def with_links(cluster: ClusterSpec, *, inside: float = 1.0, nic: float = 1.0) -> ClusterSpec:
    """`cluster` with the rates of its links multiplied."""
    node = cluster.groups[0]
    assert node.nic is not None
    links = {
        "intra_node": node.intra_node.model_copy(update={"bytes_per_s": inside * node.intra_node.bytes_per_s}),
        "nic": node.nic.model_copy(update={"bytes_per_s": nic * node.nic.bytes_per_s}),
    }
    return cluster.model_copy(update={"groups": (node.model_copy(update=links),)})


class TestRing:
    def test_a_large_one_by_hand(self) -> None:
        """3 steps of 1 us; 3/4 of 4 GB over 100 GB/s."""
        assert seconds("all_gather", 4e9) == pytest.approx(3e-6 + 30e-3)

    def test_a_small_one_takes_the_low_latency_protocol(self) -> None:
        """3 steps of 0.5 us; 3/4 of 4 kB over 25 GB/s."""
        assert seconds("reduce_scatter", 4e3) == pytest.approx(1.5e-6 + 0.12e-6)

    def test_across_nodes_it_leaves_each_node_once(self) -> None:
        """6 steps inside and 1 across; 7/8 of 8 GB over all 4 NICs."""
        assert seconds("all_gather", 8e9, TWO_NODES) == pytest.approx(6e-6 + 2e-6 + 7 / 40)

    def test_latency_grows_with_every_rank(self) -> None:
        small = [seconds("all_gather", 8, RankGroup(4, nodes, 1)) for nodes in (1, 2, 4, 8)]
        assert small == pytest.approx(
            [0.5 * ((3 * nodes) + 2 * (nodes - 1)) * 1e-6 for nodes in (1, 2, 4, 8)], rel=1e-2
        )

    def test_large_all_reduces_over_many_nodes_are_two_passes(self) -> None:
        whole, pass_seconds = (seconds(name, 1e12, RankGroup(4, 16, 1)) for name in ("all_reduce", "all_gather"))
        assert whole == pytest.approx(2 * pass_seconds)


class TestTree:
    def test_latency_grows_by_a_level_when_nodes_double(self) -> None:
        small = [seconds("all_reduce", 1e-3, RankGroup(4, nodes, 1)) for nodes in (16, 32, 64)]
        assert np.diff(small) == pytest.approx(2 * 0.5 * 2e-6, rel=1e-2)

    def test_it_beats_the_ring_for_small_messages_on_many_nodes(self) -> None:
        """A ring would need two passes of 255 steps."""
        assert seconds("all_reduce", 8, RankGroup(4, 64, 1)) < 0.1 * 2 * seconds("all_gather", 8, RankGroup(4, 64, 1))

    def test_two_nodes_exchange_the_tensor_once(self) -> None:
        """4 GB over 40 GB/s, where a ring needs 7/4 of that; and chunks, on a path of 2 x (3 + 2) us."""
        filling = 2 * np.sqrt(10e-6 * 0.1)
        assert seconds("all_reduce", 4e9, TWO_NODES) == pytest.approx(5e-6 + 0.1 + filling)


class TestInSwitch:
    def test_each_rank_sends_the_tensor_and_its_share_of_the_sums(self) -> None:
        """9/8 of 45 GB over 450 GB/s, in chunks, over 4 steps of 3.4 us; a ring would need 14/8."""
        sent = 9 / 8 * 0.1
        expected = 0.5 * 13.6e-6 + sent + 2 * np.sqrt(13.6e-6 * sent)
        assert seconds("all_reduce", 45e9, RankGroup(8, 1, 1), load_cluster("h200-sxm:8")) == pytest.approx(expected)

    def test_two_ranks_gain_nothing(self) -> None:
        h200, pair = load_cluster("h200-sxm:8"), RankGroup(2, 1, 1)
        assert seconds("all_reduce", 45e9, pair, h200) == pytest.approx(2 * seconds("all_gather", 45e9, pair, h200))

    def test_an_ampere_switch_does_not_add(self) -> None:
        a100, group = load_cluster("a100-sxm-80gb:8"), RankGroup(8, 1, 1)
        assert seconds("all_reduce", 45e9, group, a100) == pytest.approx(2 * seconds("all_gather", 45e9, group, a100))


class TestAllToAll:
    def test_inside_a_node_by_hand(self) -> None:
        """3 neighbours; 3/4 of 4 GB over 100 GB/s."""
        assert seconds("all_to_all", 4e9) == pytest.approx(1.5e-6 + 30e-3)

    def test_across_nodes_by_hand(self) -> None:
        """3 neighbours and 1 node; 4 ranks send half of their 8 GB through 40 GB/s; inside, 3/8 of it is faster."""
        assert seconds("all_to_all", 8e9, TWO_NODES) == pytest.approx(2.5e-6 + 4 * 4e9 / 40e9)

    def test_a_slow_node_binds_instead(self) -> None:
        """3/8 of 8 GB over 1 GB/s."""
        slow = with_links(round_cluster(), inside=0.01)
        assert seconds("all_to_all", 8e9, TWO_NODES, slow) == pytest.approx(2.5e-6 + 3.0)


class TestOthers:
    def test_a_send_takes_its_share_of_the_nics(self) -> None:
        assert seconds("send", 1e9, RankGroup(1, 2, 4)) == pytest.approx(2e-6 + 0.1)
        assert seconds("send", 1e9, RankGroup(2, 1, 4)) == pytest.approx(1e-6 + 0.01)

    def test_a_broadcast_fills_its_path_by_chunks(self) -> None:
        assert seconds("broadcast", 4e9) == pytest.approx(1.5e-6 + 40e-3 + 2 * np.sqrt(3e-6 * 40e-3))

    @pytest.mark.parametrize("name", NAMES)
    def test_one_rank_has_nothing_to_say(self, name: CollectiveName) -> None:
        assert seconds(name, 1e9, RankGroup(1, 1, 1)) == 0

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("send", "all_to_all")])
    def test_of_meshed_links_a_pair_uses_its_own(self, name: CollectiveName) -> None:
        cluster = round_cluster()
        mesh = cluster.groups[0].intra_node.model_copy(update={"meshed": True})
        meshed = cluster.model_copy(update={"groups": (cluster.groups[0].model_copy(update={"intra_node": mesh}),)})
        assert seconds(name, 1e12, NODE, meshed) == seconds(name, 1e12, NODE)
        pair = RankGroup(2, 1, 1)
        assert seconds(name, 1e12, pair, meshed) == pytest.approx(3 * seconds(name, 1e12, pair), rel=1e-3)

    @pytest.mark.parametrize(("node", "pair_bytes_per_s"), [("hgx-a100-4gpu", 100e9), ("hgx-v100-4gpu", 50e9)])
    def test_on_a_board_without_a_switch_a_pair_has_its_own_wires(self, node: str, pair_bytes_per_s: float) -> None:
        """A100: 4 of 12 wires of 25 GB/s to each of the 3 others; V100: 2 of 6.

        300 GB take 300 / 100 s to one other A100. An all-gather of 400 GB among all four passes 3/4 of it over all wires
        of a device: 300 / 300 s. Latencies of microseconds are left out.
        """
        device = {"hgx-a100-4gpu": "a100", "hgx-v100-4gpu": "v100"}[node]
        board = ClusterSpec(name="board", groups=(standard_node(device, node=node),))
        assert seconds("send", 300e9, RankGroup(2, 1, 1), board) == pytest.approx(300e9 / pair_bytes_per_s, rel=1e-3)
        assert seconds("all_gather", 400e9, NODE, board) == pytest.approx(100e9 / pair_bytes_per_s, rel=1e-3)


class TestNics:
    @pytest.mark.parametrize("name", NAMES)
    def test_sharing_them_halves_the_rate(self, name: CollectiveName) -> None:
        alone, shared = (seconds(name, 1e13, RankGroup(1, 2, sharing)) for sharing in (4, 8))
        assert shared == pytest.approx(2 * alone, rel=1e-3)

    @pytest.mark.parametrize("name", NAMES)
    def test_an_oversubscribed_fabric_divides_the_rate(self, name: CollectiveName) -> None:
        thin = round_cluster().model_copy(update={"oversubscription": 2.0})
        full = seconds(name, 1e13, RankGroup(1, 4, 4))
        assert seconds(name, 1e13, RankGroup(1, 4, 4), thin) == pytest.approx(2 * full, rel=1e-3)


names = st.sampled_from(NAMES)
groups = st.builds(RankGroup, st.integers(1, 4), st.integers(1, 300), st.integers(1, 4))
sizes = st.floats(1.0, 1e12)
clusters = st.sampled_from([load_cluster("h100-sxm:64"), load_cluster("mi300x:64"), round_cluster()])


class TestLaws:
    @given(names, groups, sizes, clusters)
    def test_no_cliff(self, name: CollectiveName, group: RankGroup, size: float, cluster: ClusterSpec) -> None:
        """A little more is never faster, and never slower by more than in proportion."""
        before, after = (
            float(Collectives(cluster.node, CALIBRATED).seconds(name, part, group)) for part in (size, 1.01 * size)
        )
        assert before <= after <= 1.01 * before * (1 + 1e-12)

    @given(names, groups, sizes, clusters, st.floats(1, 10), st.floats(1, 10))
    def test_faster_links_are_never_slower(
        self, name: CollectiveName, group: RankGroup, size: float, cluster: ClusterSpec, inside: float, nic: float
    ) -> None:
        faster = with_links(cluster, inside=inside, nic=nic)
        assert seconds(name, size, group, faster) <= seconds(name, size, group, cluster) * (1 + 1e-12)

    @given(names.filter(lambda name: name != "all_to_all"), st.integers(1, 4), st.integers(2, 300), sizes, clusters)
    def test_more_nodes_are_never_faster(
        self, name: CollectiveName, per_node: int, nodes: int, size: float, cluster: ClusterSpec
    ) -> None:
        """But for an all-to-all, which keeps less of its bytes inside a node."""
        fewer, more = (seconds(name, size, RankGroup(per_node, count, 1), cluster) for count in (nodes, nodes + 1))
        assert fewer <= more * (1 + 1e-12)

    @given(names, groups, sizes)
    def test_no_link_carries_more_than_its_rate(self, name: CollectiveName, group: RankGroup, size: float) -> None:
        """What leaves a node at the least: an all-gather's other shards, one copy of the rest."""
        leaving = size * (group.nodes - 1) / group.nodes
        assert seconds(name, size, group) >= leaving / 40e9 * (1 - 1e-12)


def test_everything_broadcasts() -> None:
    column = RankGroup(np.array([[1.0], [4.0]]), np.array([[2.0], [1.0]]), np.array([[4.0], [1.0]]))
    for name in NAMES:
        together = Collectives(round_cluster().node, ROUND).seconds(name, np.array([1e3, 1e6, 1e9]), column)
        alone = [seconds(name, size, RankGroup(*one)) for one in ((1, 2, 4), (4, 1, 1)) for size in (1e3, 1e6, 1e9)]
        np.testing.assert_allclose(together.ravel(), alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_may_hold_one_value_a_candidate(name: CollectiveName) -> None:
    fractions = np.array([0.5, 0.7, 0.9])
    candidates = replace(ROUND, nvlink_fraction=fractions, nic_fraction=fractions, chunk_fill=fractions)
    sizes_bytes = np.array([[1e6, 1e9]] * 3)
    together = Collectives(round_cluster().node, candidates).seconds(name, sizes_bytes, TWO_NODES)
    for row, fraction in zip(together, fractions, strict=True):
        one = replace(ROUND, nvlink_fraction=fraction, nic_fraction=fraction, chunk_fill=fraction)
        np.testing.assert_allclose(row, Collectives(round_cluster().node, one).seconds(name, sizes_bytes[0], TWO_NODES))


def test_a_link_of_a_user_is_not_meshed() -> None:
    assert not Link(kind="nvlink", bytes_per_s=1e9, latency_seconds=0.0).meshed
