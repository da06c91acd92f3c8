"""Which ranks a collective joins, and what of the network they share."""

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
    tp_group,
)
from shardwright.specs.mesh import RankGroup
from tests.costmodel.fakes import round_cluster


def candidates(**degrees: int) -> Candidates:
    return Candidates(
        **{name: np.array([degrees.get(name, int(name != "etp"))]) for name in Candidates.__dataclass_fields__}
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


def test_indexing_keeps_arrays() -> None:
    pair = Candidates(**{name: np.array([1, 2]) for name in Candidates.__dataclass_fields__})
    assert len(pair[1]) == 1
    assert pair[1].tp.tolist() == [2]
    assert pair.ranks.tolist() == [1, 32]
