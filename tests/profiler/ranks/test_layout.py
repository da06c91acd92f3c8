"""Every kind of group that a mesh could have, told apart exactly as the cost model does."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.catalog.cluster_file import load_cluster
from shardwright.profiler.ranks.layout import GroupLayout, GroupSizes, group_layouts
from shardwright.profiler.ranks.nodes import Nodes
from shardwright.specs.candidates import Candidates, pipeline_group, shard_group, tp_group
from shardwright.specs.cluster import NodeGroup
from shardwright.specs.mesh import RankGroup


def _nodes(count: int, ranks_per_node: int) -> Nodes:
    return Nodes(tuple(f"node{node}" for node in range(count) for _ in range(ranks_per_node)))


def test_the_groups_of_two_nodes_of_two() -> None:
    assert group_layouts(_nodes(2, 2)) == {
        GroupSizes(ranks_per_node=2, nodes=1, sharing=1): GroupLayout(stride=1, degree=2),
        GroupSizes(ranks_per_node=1, nodes=2, sharing=2): GroupLayout(stride=2, degree=2),
        GroupSizes(ranks_per_node=2, nodes=2, sharing=1): GroupLayout(stride=1, degree=4),
        GroupSizes(ranks_per_node=1, nodes=2, sharing=1): GroupLayout(stride=2, degree=2, alone=True),
    }


def test_the_groups_of_one_node_of_four() -> None:
    assert group_layouts(_nodes(1, 4)) == {
        GroupSizes(ranks_per_node=2, nodes=1, sharing=2): GroupLayout(stride=1, degree=2),
        GroupSizes(ranks_per_node=4, nodes=1, sharing=1): GroupLayout(stride=1, degree=4),
        GroupSizes(ranks_per_node=2, nodes=1, sharing=1): GroupLayout(stride=1, degree=2, alone=True),
    }


def test_one_rank_has_no_groups() -> None:
    assert group_layouts(_nodes(1, 1)) == {}


def test_groups_that_lie_unevenly_on_nodes_are_left_out() -> None:
    """Pairs of neighbours on nodes of three: some within a node, some across. The pair of rank 0 alone is within."""
    assert {sizes: layout for sizes, layout in group_layouts(_nodes(2, 3)).items() if sizes.ranks == 2} == {
        GroupSizes(ranks_per_node=1, nodes=2, sharing=3): GroupLayout(stride=3, degree=2),
        GroupSizes(ranks_per_node=2, nodes=1, sharing=1): GroupLayout(stride=1, degree=2, alone=True),
        GroupSizes(ranks_per_node=1, nodes=2, sharing=1): GroupLayout(stride=3, degree=2, alone=True),
    }


def test_members_are_a_stride_apart() -> None:
    assert GroupLayout(stride=1, degree=2).members(3) == (2, 3)
    assert GroupLayout(stride=2, degree=2).members(3) == (1, 3)
    assert GroupLayout(stride=2, degree=2).members(6) == (4, 6)
    assert GroupLayout(stride=2, degree=4).members(5) == (1, 3, 5, 7)


def test_alone_means_the_group_of_rank_0() -> None:
    assert [GroupLayout(stride=2, degree=2, alone=True).works(rank) for rank in range(4)] == [True, False, True, False]
    assert all(GroupLayout(stride=2, degree=2).works(rank) for rank in range(4))


@given(nodes=st.integers(0, 2), per_node=st.integers(0, 3), data=st.data())
def test_groups_at_work_are_those_of_the_cost_model(nodes: int, per_node: int, data: st.DataObject) -> None:
    """Whatever mesh of powers of two these ranks form: its groups have been measured, under the cost model's own sizes."""
    ranks = 2 ** (nodes + per_node)
    degrees = [2**power for power in range(nodes + per_node + 1)]
    tp = data.draw(st.sampled_from(degrees), label="tp")
    shards = data.draw(st.sampled_from([degree for degree in degrees if degree * tp <= ranks]), label="dp_shard")
    mesh = _mesh(pp=ranks // (tp * shards), dp_shard=shards, tp=tp)
    node = _node(2**nodes, 2**per_node)
    found = {sizes for sizes, layout in group_layouts(_nodes(2**nodes, 2**per_node)).items() if not layout.alone}
    kinds: list[Callable[[Candidates, NodeGroup], RankGroup]] = [tp_group, shard_group, pipeline_group]
    for kind in kinds:
        group = kind(mesh, node)
        sizes = GroupSizes(*(int(np.asarray(part)[0]) for part in (group.ranks_per_node, group.nodes, group.sharing)))
        assert sizes.ranks == 1 or sizes in found


def _mesh(*, pp: int, dp_shard: int, tp: int) -> Candidates:
    one = {"dp_replicate": 1, "micro_batch": 1, "microbatches": 1, "stages_per_rank": 1, "zero_stage": 3}
    other = {"sequence_parallel": 0, "offload_optimizer": 0, "pp": pp, "dp_shard": dp_shard, "tp": tp}
    return Candidates(**{name: np.array([value]) for name, value in (one | other).items()})


def _node(nodes: int, per_node: int) -> NodeGroup:
    return load_cluster("h100-sxm:8").node.model_copy(update={"nodes": nodes, "devices_per_node": per_node})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_groups_of_a_layout_hold_each_rank_once(count: int) -> None:
    nodes = _nodes(count, 4)
    for layout in group_layouts(nodes).values():
        groups = {layout.members(rank) for rank in range(len(nodes.hosts))}
        assert sorted(rank for members in groups for rank in members) == list(range(len(nodes.hosts)))
        assert all(rank in layout.members(rank) for rank in range(len(nodes.hosts)))
