"""Collectives between CPU ranks, by hand: 100 GB/s and 1 us inside a node, 65% of 10 GB/s and 2 us for each rank between nodes."""

import pytest

from shardwright.costmodel.op_times.collectives.gloo import gloo_seconds
from shardwright.specs.mesh import RankGroup
from tests.costmodel.fakes import round_cluster

CPUS = round_cluster(kind="cpu").node


def test_a_ring_inside_a_node() -> None:
    """A start and 3 hops; 3/4 of 4 GB."""
    assert gloo_seconds("all_gather", 4e9, RankGroup(4, 1, 1), CPUS) == pytest.approx(4e-6 + 30e-3)


def test_a_ring_across_nodes_twice() -> None:
    """Starts of 3 us; 2 passes of 3 hops and one node, and of 7/8 of 8 GB through four NICs."""
    seconds = gloo_seconds("all_reduce", 8e9, RankGroup(4, 2, 1), CPUS)
    assert seconds == pytest.approx(3e-6 + 2 * 5e-6 + 2 * 7 / 26)


def test_a_send_is_one_hop() -> None:
    assert gloo_seconds("send", 1e9, RankGroup(1, 2, 4), CPUS) == pytest.approx(3e-6 + 1 / 6.5)


def test_an_all_to_all_leaves_the_node_in_part() -> None:
    """4 ranks send half of their 8 GB each through four NICs."""
    seconds = gloo_seconds("all_to_all", 8e9, RankGroup(4, 2, 1), CPUS)
    assert seconds == pytest.approx(3e-6 + 5e-6 + 16 / 26)


def test_one_rank_has_nothing_to_say() -> None:
    assert gloo_seconds("all_reduce", 1e9, RankGroup(1, 1, 1), CPUS) == 0
