"""Which ranks a collective joins, and what of the network they share."""

import itertools

import numpy as np
import pytest

from shardwright.specs.candidates import (
    Candidates,
    cp_group,
    ep_group,
    expert_replicate_group,
    expert_shard_group,
    expert_tp_group,
    pipeline_group,
    replicate_group,
    shard_group,
    stages_group,
    tp_group,
)
from shardwright.specs.mesh import RankGroup
from tests.costmodel.fakes import round_cluster

_NOTHING = ("etp", "order", "by_chunk", "sync_bits", "sync_delay", "sync_outer")


def candidates(**degrees: float) -> Candidates:
    return Candidates(
        **{
            name: np.array(
                [degrees.get(name, int(name not in _NOTHING and not name.startswith(("offload_", "delayed_"))))]
            )
            for name in Candidates.__dataclass_fields__
        }
    )


def numbers(group: RankGroup) -> tuple[float, float, float]:
    return tuple(float(np.asarray(part)[0]) for part in (group.ranks_per_node, group.nodes, group.sharing))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("degrees", "group", "expected"),
    [
        # four devices a node: tp inside one node, data parallelism across both, four groups at once on the NICs
        (dict(tp=4, dp_shard=2), tp_group, (4, 1, 1)),
        (dict(tp=4, dp_shard=2), shard_group, (1, 2, 4)),
        (dict(tp=2, dp_shard=4), shard_group, (2, 2, 2)),
        (dict(dp_shard=8), shard_group, (4, 2, 1)),
        (dict(dp_shard=4, dp_replicate=2), shard_group, (4, 1, 1)),
        (dict(dp_shard=4, dp_replicate=2), replicate_group, (1, 2, 4)),
        (dict(tp=8), tp_group, (4, 2, 1)),
        (dict(pp=2, tp=4), pipeline_group, (1, 2, 4)),
        (dict(pp=2, tp=2), pipeline_group, (2, 1, 2)),
        (dict(pp=1, tp=4), pipeline_group, (1, 1, 4)),
        # cp lies between tp and the shards, which take it in
        (dict(tp=2, cp=2, dp_shard=2), cp_group, (2, 1, 2)),
        (dict(tp=2, cp=2, dp_shard=2), shard_group, (2, 2, 2)),
        (dict(cp=4, dp_replicate=2), shard_group, (4, 1, 1)),
        (dict(cp=4, dp_replicate=2), replicate_group, (1, 2, 4)),
        (dict(cp=4, dp_replicate=2, zero_stage=0), shard_group, (1, 1, 4)),
        (dict(cp=4, dp_replicate=2, zero_stage=0), replicate_group, (4, 2, 1)),
        # experts: ep 1 as the rest; within a node; over both, two ranks splitting each expert or none
        (dict(tp=2, dp_shard=4), expert_shard_group, (2, 2, 2)),
        (dict(tp=2, dp_shard=4, ep=4), ep_group, (4, 1, 1)),
        (dict(tp=2, dp_shard=4, ep=4), expert_shard_group, (1, 2, 4)),
        (dict(tp=4, dp_shard=2, ep=2), expert_tp_group, (2, 1, 2)),
        (dict(tp=4, dp_shard=2, ep=2), ep_group, (2, 1, 2)),
        (dict(tp=2, dp_shard=4, ep=8), ep_group, (4, 2, 1)),
        # two ranks splitting each expert although ep could take their place: experts lie on both nodes
        (dict(tp=2, dp_shard=4, ep=4, etp=2), expert_tp_group, (2, 1, 2)),
        (dict(tp=2, dp_shard=4, ep=4, etp=2), ep_group, (2, 2, 2)),
        (dict(tp=2, dp_shard=4, ep=4, etp=2), expert_shard_group, (1, 1, 4)),
        (dict(tp=4, dp_shard=2, ep=2, etp=1), ep_group, (2, 1, 2)),
        (dict(dp_shard=4, dp_replicate=2, ep=4), expert_replicate_group, (1, 2, 4)),
        (dict(cp=4, dp_replicate=2, ep=2, zero_stage=0), expert_replicate_group, (2, 2, 2)),
    ],
)
def test_group_of_an_axis(degrees: dict[str, int], group: object, expected: tuple[float, float, float]) -> None:
    assert callable(group)
    assert numbers(group(candidates(**degrees), round_cluster(nodes=2, devices_per_node=4).node)) == expected


@pytest.mark.parametrize(
    ("degrees", "group", "expected"),
    [
        # four nodes of four. pp lies inside data parallelism, so the ranks of a block of cp * tp are neighbours.
        # Two stages of tp 2 fill a node: a message stays on it, and the same shards of four nodes meet, four groups on the NICs
        (dict(pp=2, tp=2, dp_shard=4), pipeline_group, (2, 1, 2)),
        (dict(pp=2, tp=2, dp_shard=4), shard_group, (1, 4, 4)),
        (dict(pp=2, tp=2, dp_shard=4), tp_group, (2, 1, 2)),
        # four stages of tp 2 fill two nodes: the two ranks of one stage send to the next node, the other two inside
        (dict(pp=4, tp=2, dp_shard=2), pipeline_group, (1, 2, 2)),
        (dict(pp=4, tp=2, dp_shard=2), shard_group, (1, 2, 4)),
        (dict(pp=4, tp=2, dp_shard=2), stages_group, (2, 2, 2)),
        # a node holds two replicas of two stages: half of a group of eight is pairs on a node
        (dict(pp=2, dp_shard=8), shard_group, (2, 4, 2)),
        (dict(pp=2, dp_shard=8), pipeline_group, (2, 1, 2)),
        (dict(pp=2, dp_shard=2, dp_replicate=4), replicate_group, (1, 4, 4)),
        (dict(pp=2, dp_shard=2, dp_replicate=4), shard_group, (2, 1, 2)),
        # a block as large as a node lies as in the other order
        (dict(pp=2, tp=4, dp_shard=2), shard_group, (1, 2, 4)),
        (dict(pp=2, tp=4, dp_shard=2), pipeline_group, (1, 2, 4)),
        # cp 2 in the block, and experts over the block
        (dict(pp=2, cp=2, dp_shard=4), cp_group, (2, 1, 2)),
        (dict(pp=2, tp=2, dp_shard=4, ep=2), ep_group, (2, 1, 2)),
        (dict(pp=2, tp=2, dp_shard=4, ep=2), expert_shard_group, (1, 4, 4)),
    ],
)
def test_group_where_the_pipeline_lies_inside_data_parallelism(
    degrees: dict[str, int], group: object, expected: tuple[float, float, float]
) -> None:
    assert callable(group)
    assert numbers(group(candidates(order=1, **degrees), round_cluster(nodes=4, devices_per_node=4).node)) == expected


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("degrees", list(itertools.product([1, 2, 4], repeat=5)), ids=str)
def test_groups_are_those_of_the_numbered_ranks(order: int, degrees: tuple[int, ...]) -> None:
    """Ranks are laid out one by one, and those of the first group are counted on their nodes of eight."""
    pp, replicate, shard, cp, tp = degrees
    numbered = np.arange(np.prod(degrees)).reshape(degrees if order == 0 else (replicate, shard, pp, cp, tp))
    ranks = numbered if order == 0 else np.moveaxis(numbered, 2, 0)
    one = candidates(pp=pp, dp_replicate=replicate, dp_shard=shard, cp=cp, tp=tp, order=order)
    node = round_cluster(nodes=128, devices_per_node=8).node
    groups = [
        (tp_group, ranks[0, 0, 0, 0, :]),
        (cp_group, ranks[0, 0, 0, :, 0]),
        (shard_group, ranks[0, 0, :, :, 0]),
        (replicate_group, ranks[0, :, 0, 0, 0]),
        (stages_group, ranks[:, 0, 0, 0, 0]),
    ]
    for group, members in groups:
        _, counts = np.unique(members.reshape(-1) // 8, return_counts=True)
        assert numbers(group(one, node)) == (counts[0], len(counts), 8 / counts[0]), group


def test_indexing_keeps_arrays() -> None:
    pair = Candidates(**{name: np.array([1, 2]) for name in Candidates.__dataclass_fields__})
    assert len(pair[1]) == 1
    assert pair[1].tp.tolist() == [2]
    assert pair.ranks.tolist() == [1, 32]
