"""Context and communicators, whatever the layers."""

import pytest

from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.fixed import communicator_bytes, context_bytes, fixed_bytes
from shardwright.specs.profile import Figure
from tests.costmodel.fakes import round_cluster
from tests.costmodel.op_times.made_up_profile import made_up_profile
from tests.specs.test_candidates import candidates


@pytest.mark.parametrize(
    ("degrees", "communicators"),
    [({}, 0), ({"dp_shard": 8}, 2), ({"dp_shard": 4, "tp": 2}, 3), ({"pp": 2, "tp": 4}, 3)],
)
def test_one_communicator_an_axis_and_one_of_all_ranks(degrees: dict[str, int], communicators: int) -> None:
    chosen, cluster = candidates(**degrees), round_cluster()
    assert communicator_bytes(chosen, cluster)[0] == communicators * CALIBRATED.communicator_bytes
    assert fixed_bytes(chosen, cluster)[0] == communicator_bytes(chosen, cluster)[0] + context_bytes(cluster)


def test_a_cpu_has_neither() -> None:
    assert fixed_bytes(candidates(dp_shard=8), round_cluster(kind="cpu")).tolist() == [0.0]


def test_both_as_measured_where_a_profile_has_them() -> None:
    cluster, chosen = round_cluster(), candidates(dp_shard=4, tp=2)
    figures = {
        name: Figure(value=value, unit="bytes", meaning=name)
        for name, value in (("context_bytes", 7e8), ("communicator_bytes", 3e7))
    }
    profile = made_up_profile().model_copy(update={"figures": figures})
    measured = cluster.model_copy(update={"groups": (cluster.groups[0].model_copy(update={"profile": profile}),)})
    assert fixed_bytes(chosen, measured)[0] == 7e8 + 3 * 3e7
    assert fixed_bytes(chosen, cluster)[0] == context_bytes(cluster) + 3 * CALIBRATED.communicator_bytes
