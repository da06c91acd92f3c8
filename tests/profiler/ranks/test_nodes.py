"""Which ranks share a node is read off their machines' names."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.profiler.ranks.nodes import Nodes


def test_ranks_are_counted_node_by_node() -> None:
    nodes = Nodes(("a", "a", "a", "b", "b", "b"))
    assert (nodes.count, nodes.ranks_per_node) == (2, 3)
    assert [nodes.node_of(rank) for rank in range(6)] == [0, 0, 0, 1, 1, 1]


def test_one_machine_is_one_node() -> None:
    assert (Nodes(("a", "a")).count, Nodes(("a", "a")).ranks_per_node) == (1, 2)


def test_unequal_nodes_are_refused() -> None:
    with pytest.raises(SpecError, match="a runs 2 of the ranks and b 1; start equally many"):
        Nodes(("a", "a", "b"))


def test_ranks_dealt_out_in_turn_are_refused() -> None:
    with pytest.raises(SpecError, match="a, b, a, b; number them node by node"):
        Nodes(("a", "b", "a", "b"))
