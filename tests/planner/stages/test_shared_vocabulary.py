"""Pipelines whose ranks share embedding and head, with more partitions than are all tried."""

from itertools import combinations

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.best_plan import search
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.ranges import layer_ranges
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.specs.stack import _stacks, named_stack
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_SHARED = Fixed(pp=4, schedule="1f1b", vocabulary_parallel="vocab-2", micro_batch=1, zero_stage=0)
_TRAINING = TrainingSpec(seq_len=2048, global_batch=16)
_MODEL = tiny_model(layers=14, classes=2, hidden=1024, vocab=40000)


@pytest.fixture(autouse=True)
def _shares_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    own = named_stack("shardwright")
    runs = own.runs.model_copy(update={"vocabulary_parallel": ("vocab-2",)})
    monkeypatch.setitem(_stacks(), "shardwright", own.model_copy(update={"runs": runs}))


def test_plans_fit_whatever_the_memory() -> None:
    """Microbatches that wait for the vocabulary are kept, too."""
    recomputed = set()
    for memory in np.linspace(2.5e9, 6e9, 30):
        cluster = tiny_cluster(devices=4, memory_bytes=float(memory))
        try:
            found = search(_MODEL, cluster, _TRAINING, fixed=_SHARED)
        except InfeasibleError:
            continue
        check_memory(found.estimate, cluster)
        assert found.plan.vocabulary_parallel == "vocab-2"
        recomputed |= {run.recompute for stage in found.plan.stages for run in stage.layers}
    assert recomputed == {"none", "full"}


def test_no_partition_is_faster() -> None:
    """With room for everything nothing is recomputed, so that every partition can be tried."""
    cluster = tiny_cluster(devices=4, memory_bytes=64e9, nic_bytes_per_s=1e9)
    found = search(_MODEL, cluster, _TRAINING, fixed=_SHARED.but(recompute="none"))
    space = enumerate_space(_MODEL, cluster, _TRAINING, _SHARED)
    costs = space_costs(space, _MODEL, _TRAINING, op_times(cluster, _TRAINING))
    staged = StagedEntry(costs.entry(0), layer_ranges(_MODEL))
    layers = _MODEL.layer_count
    sizes = [np.diff((0, *cuts, layers)) for cuts in combinations(range(1, layers), 3)]
    mixes = np.zeros((len(sizes), 4, 2, 3), dtype=np.int64)
    mixes[..., 0] = [staged.counts(tuple(each)) for each in sizes]
    assert found.estimate.step_seconds == pytest.approx(staged.seconds(mixes).min(), rel=1e-9)
    assert found.gap <= 1e-9
