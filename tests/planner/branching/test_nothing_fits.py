"""What is said when nothing fits."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.costmodel.tables.memory import usable_bytes
from shardwright.planner.best_plan import search
from shardwright.planner.branching.least_memory import least_memory
from shardwright.planner.branching.nothing_fits import fits, lacking_bytes, what_would_fit
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.limits import SHARES
from shardwright.planner.space.ranges import layer_ranges
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import random_problem, tiny_cluster, tiny_model

_MODEL = tiny_model(layers=8, hidden=2048, vocab=20000)
_TRAINING = TrainingSpec(seq_len=2048, global_batch=8)


def test_says_what_binds_by_how_much_and_what_would_fit() -> None:
    cluster = tiny_cluster(devices=2, memory_bytes=2.5e9, host_bytes=1e9)
    with pytest.raises(InfeasibleError) as caught:
        search(_MODEL, cluster, _TRAINING)
    message = str(caught.value)
    assert "\n" not in message
    assert "no plan fits the device memory" in message
    assert "GiB too much" in message
    assert "devices of this kind" in message
    need = _lacking(cluster)
    group = cluster.groups[0]
    for share, expected in ((0.98, False), (1.02, True)):
        more = group.device.model_copy(
            update={
                "memory_bytes": group.device.memory_bytes
                + share * need * group.device.memory_bytes / usable_bytes(group.device, CALIBRATED)
            }
        )
        larger = cluster.model_copy(update={"groups": (group.model_copy(update={"device": more}),)})
        assert _fit(larger, Fixed(offload_optimizer=0)) is expected


def test_says_that_the_host_binds() -> None:
    cluster = tiny_cluster(devices=1, memory_bytes=8e9, host_bytes=3e9)
    with pytest.raises(InfeasibleError, match="no plan fits the host memory"):
        search(_MODEL, cluster, _TRAINING, fixed=Fixed(offload_optimizer=1))


def test_the_host_does_not_fill_to_the_last_byte() -> None:
    """A host that holds the optimizer exactly holds it no more once it keeps a reserve."""
    need = max(search(_MODEL, tiny_cluster(devices=1), _TRAINING, fixed=Fixed(offload_optimizer=1)).estimate.host_bytes)
    cluster = tiny_cluster(devices=1, host_bytes=need * 1.01)
    assert search(_MODEL, cluster, _TRAINING, fixed=Fixed(offload_optimizer=1)).plan.offload.optimizer_fraction
    group = cluster.groups[0]
    host = group.host.model_copy(update={"memory_reserve": 0.02})
    kept = cluster.model_copy(update={"groups": (group.model_copy(update={"host": host}),)})
    with pytest.raises(InfeasibleError, match="no plan fits the host memory"):
        search(_MODEL, kept, _TRAINING, fixed=Fixed(offload_optimizer=1))


def test_a_limit_may_be_in_the_way() -> None:
    cluster = tiny_cluster(devices=1, memory_bytes=9e9)
    limited = Fixed.model_validate({"within": {"offload_optimizer": 0, "recompute": "none"}})
    changes = list(what_would_fit(_MODEL, cluster, _TRAINING, limited, _times(cluster)))
    assert "no limit to offload_optimizer 0" in [change.text for change in changes]
    for change in changes:
        assert fits(_MODEL, change.cluster, change.training, change.fixed, op_times(change.cluster, change.training))


def test_what_is_fixed_may_be_what_is_in_the_way() -> None:
    cluster = tiny_cluster(devices=1, memory_bytes=9e9)
    fixed = Fixed(offload_optimizer=0, recompute="none")
    changes = list(what_would_fit(_MODEL, cluster, _TRAINING, fixed, _times(cluster)))
    assert "offload_optimizer other than 0" in [change.text for change in changes]
    for change in changes:
        times = op_times(change.cluster, change.training)
        assert fits(_MODEL, change.cluster, change.training, change.fixed, times)


def test_offload_may_fit_where_nothing_else_does() -> None:
    cluster = tiny_cluster(devices=1, memory_bytes=4e9)
    assert not _fit(cluster, Fixed())
    (change,) = [
        c for c in what_would_fit(_MODEL, cluster, _TRAINING, Fixed(), _times(cluster)) if c.text == "--offload"
    ]
    found = search(_MODEL, cluster, _TRAINING, fixed=change.fixed)
    assert found.plan.offload.gradient_fraction or found.plan.offload.parameter_fraction
    closed = Fixed.model_validate({"within": {share: 0 for share in SHARES}})
    assert "--offload" not in [c.text for c in what_would_fit(_MODEL, cluster, _TRAINING, closed, _times(cluster))]


def test_devices_are_the_fewest_doubling() -> None:
    cluster = tiny_cluster(devices=1, memory_bytes=6e9, host_bytes=1e9)
    more = [
        c.cluster for c in what_would_fit(_MODEL, cluster, _TRAINING, Fixed(), _times(cluster)) if c.cluster != cluster
    ]
    assert len(more) == 1
    half = more[0].groups[0].nodes // 2
    fewer = cluster.groups[0].model_copy(update={"nodes": half})
    assert not _fit(cluster.model_copy(update={"groups": (fewer,)}), Fixed())


@pytest.mark.parametrize("seed", range(12))
def test_least_memory_is_least(seed: int) -> None:
    """No partition and mix of an entry fits a device whose room is less, and one fits where it is that."""
    problem = random_problem(seed)
    space = enumerate_space(*problem, Fixed(schedule="1f1b"))
    costs = space_costs(space, problem.model, problem.training, op_times(problem.cluster, problem.training))
    ranges = layer_ranges(problem.model)
    entry = costs.entry(seed % len(space))
    least = least_memory(entry, ranges, [0, 1, 2])
    staged = StagedEntry(entry, ranges)
    counts = staged.counts(least.layers)
    shares = []
    for rank, mix in enumerate(least.mix):
        assert mix.sum(axis=1).tolist() == counts[rank].tolist()
        shares.append(_share(staged, rank, counts[rank : rank + 1], mix[None, None]))
    assert max(shares) == pytest.approx(least.share, rel=1e-4)
    every = (mix for mix in product(range(3), repeat=int(counts[0].sum())))
    for choice in list(every)[:50]:
        other = np.zeros_like(least.mix[0])
        for layer, policy in enumerate(choice):
            other[problem.model.class_of_layer[layer], policy] += 1
        assert _share(staged, 0, counts[:1], other[None, None]) >= shares[0] * (1 - 1e-4)


def _share(staged: StagedEntry, rank: int, counts: np.ndarray, mix: np.ndarray) -> float:
    """The share of device or host that a rank takes: bisected on how much of it is enough."""
    low, high = 1e-6, 1e6
    for _ in range(100):
        middle = (low * high) ** 0.5
        if _scaled(staged, middle).fits(rank, counts, mix)[0]:
            high = middle
        else:
            low = middle
    return high


def _scaled(staged: StagedEntry, factor: float) -> StagedEntry:
    entry = staged.entry
    device, host = entry.room_bytes * factor, entry.host_room_bytes * factor
    return StagedEntry(replace(entry, room_bytes=device, host_room_bytes=host), staged.ranges)


def _times(cluster: ClusterSpec) -> OpTimes:
    return op_times(cluster, _TRAINING)


def _fit(cluster: ClusterSpec, fixed: Fixed) -> bool:
    return fits(_MODEL, cluster, _TRAINING, fixed, _times(cluster))


def _lacking(cluster: ClusterSpec) -> float:
    costs = space_costs(enumerate_space(_MODEL, cluster, _TRAINING), _MODEL, _TRAINING, _times(cluster))
    return lacking_bytes(costs, _MODEL, np.ones(len(costs.space), dtype=bool))


def test_an_even_split_that_must_be_is_what_binds() -> None:
    """An uneven plan would fit, and says nothing about the even one that was asked for: the lack is never negative."""
    model, training = load_model("llama-3.2-1b"), TrainingSpec(seq_len=9472, global_batch=8)
    fixed = Fixed(pp=2, even_stages=True, recompute="none", offload_optimizer=0, schedule="1f1b")
    with pytest.raises(InfeasibleError) as caught:
        search(model, load_cluster("a100-sxm-40gb:2"), training, fixed=fixed)
    lack = re.search(r"(-?[\d.]+) GiB too much", str(caught.value))
    assert lack is not None
    assert float(lack.group(1)) > 0
    assert "even_stages other than True" in str(caught.value)


def test_the_times_that_were_given_say_what_fits() -> None:
    """A stack of other constants has another reserve: what binds is told by them, not by the default ones."""
    cluster = tiny_cluster(devices=2, memory_bytes=2.5e9, host_bytes=1e9)
    constants = replace(CALIBRATED, memory_reserve=0.5)
    with pytest.raises(InfeasibleError, match=rf"has {0.5 * 2.5e9 / 2**30:.1f} usable"):
        search(_MODEL, cluster, _TRAINING, times=op_times(cluster, _TRAINING, constants))


def test_what_the_software_never_does_is_no_advice() -> None:
    """megatron-lm has only even stages, which nobody asked for."""
    training = TrainingSpec(seq_len=13312, global_batch=8, stack="megatron-lm")
    with pytest.raises(InfeasibleError) as caught:
        search(
            load_model("llama-3.2-1b"), load_cluster("a100-sxm-40gb:2"), training, fixed=Fixed(pp=2, recompute="none")
        )
    assert "even_stages" not in str(caught.value)
    assert "recompute other than none" in str(caught.value)
