"""What every implementation of `OpTimes` promises, held by all of them."""

from collections.abc import Callable

import numpy as np
import pytest

from shardwright.base.arrays import Array
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.op_times.measured import ProfileTimes
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.specs.mesh import RankGroup
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.costmodel.op_times.made_up_profile import made_up_profile

BF16 = TrainingSpec(seq_len=1024, global_batch=8)
FP32 = TrainingSpec(seq_len=1024, global_batch=8, precision=Precision(compute="fp32"))
IMPLEMENTATIONS: dict[str, OpTimes] = {
    "round": RoundTimes(),
    "catalog h100": CatalogTimes(load_cluster("h100-sxm:64").node, BF16),
    "catalog v100": CatalogTimes(
        load_cluster("v100-sxm-32gb:16").node, BF16.model_copy(update={"precision": Precision(compute="fp16")})
    ),
    "catalog cpu": CatalogTimes(round_cluster(kind="cpu").node, FP32),
    "profile": ProfileTimes(made_up_profile(), CatalogTimes(round_cluster().node, BF16)),
    "profile of another format": ProfileTimes(made_up_profile(), CatalogTimes(round_cluster().node, FP32)),
}
GROUP = RankGroup(ranks_per_node=4.0, nodes=2.0, sharing=1.0)
OPERATIONS: dict[str, Callable[[OpTimes, Array], Array]] = {
    "matmul": lambda times, size: times.matmul_seconds(size, 1024, 1024),
    "grouped matmul": lambda times, size: times.matmul_seconds(128, 1024, size, groups=8),
    "attention": lambda times, size: times.attention_seconds(size * 1e6, head_size=128, seq_len=1024, backward=False),
    "attention backward": lambda times, size: times.attention_seconds(
        size * 1e6, head_size=64, seq_len=1024, backward=True
    ),
    "memory": lambda times, size: times.memory_bound_seconds(size),
    "cast": lambda times, size: times.cast_seconds(size, "fp8"),
    "operator": lambda times, size: times.operator_seconds("rotary", size, 8 * size),
    "launches": lambda times, size: times.with_launches_seconds(size * 1e-9, 30),
    "all-gather": lambda times, size: times.collective_seconds("all_gather", size, GROUP),
    "all-to-all": lambda times, size: times.collective_seconds("all_to_all", size, GROUP),
    "all-reduce": lambda times, size: times.collective_seconds("all_reduce", size, GROUP),
    "send": lambda times, size: times.collective_seconds("send", size, RankGroup(1.0, 2.0, 4.0)),
    "copy": lambda times, size: times.host_copy_seconds(size),
    "host": lambda times, size: times.host_update_seconds(size, 40 * size),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("times", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
class TestEveryOperation:
    def test_takes_longer_for_more(self, times: OpTimes, operation: Callable[[OpTimes, Array], Array]) -> None:
        """Over whole doublings: within one, a matmul may fill its last wave of tiles for nothing."""
        seconds = operation(times, np.array([2.0**power for power in range(8, 31)]))
        assert np.isfinite(seconds).all()
        assert (seconds >= 0).all()
        assert (np.diff(seconds) >= -1e-12 * seconds[1:]).all()

    def test_broadcasts(self, times: OpTimes, operation: Callable[[OpTimes, Array], Array]) -> None:
        sizes = np.array([[1024.0, 4096.0], [8192.0, 65536.0]])
        together = operation(times, sizes)
        alone = [float(operation(times, np.asarray(size))) for size in sizes.ravel()]
        np.testing.assert_allclose(together.ravel(), alone)


@pytest.mark.parametrize("times", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_one_rank_needs_no_collective(times: OpTimes) -> None:
    assert times.collective_seconds("all_reduce", 1e9, RankGroup(1.0, 1.0, 1.0)) == 0
    assert times.basis in ("catalog", "profile")
