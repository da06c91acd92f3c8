"""Pipelines whose ranks share embedding and head, with more partitions than are all tried."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.base.errors import InfeasibleError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.costmodel.pipeline.action import Action, ActionKind
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.planner.best_plan import search
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.ranges import layer_ranges
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.specs.mesh import RankGroup
from shardwright.specs.stack import _stacks, named_stack
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes
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


@dataclass(frozen=True)
class _MatmulsAlone(RoundTimes):
    """A second for each TFLOP of a linear; attention and traffic take no time."""

    def attention_seconds(self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None) -> Array:  # fmt: skip
        return np.zeros_like(np.asarray(flops, dtype=float))

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        return np.zeros(np.broadcast(size_bytes, group.ranks_per_node).shape)


def test_v_half_wins_with_256k_words() -> None:
    """On sail-sg's fork, by hand, in TFLOPs of a microbatch of 2,048 tokens.

    Linears of a layer have 15 h^2 weights, so its forward takes L = 2 x 15 x 2048^2 x 2048 = 0.258, and the head's 2 x 2048 x
    262,144 x 2048 = 2.199: as much as 8.5 layers. Forward, input and weight gradient take equally long. So a rank with a quarter
    of 16 layers and of the vocabulary takes t = 3 (4 L + head / 4) = 4.74 s, and one with the whole head 2.3 times as long. 1F1B takes 32 + 3 such
    turns. V-Half cuts a turn into six passes, of which ranks wait for five, if passes start as soon as what they need is there.
    Its ranks keep (4 + 2) / 2 microbatches and one for the vocabulary, where 1F1B's first keeps four and one.
    """
    model = tiny_model(layers=16, hidden=2048, vocab=262_144)
    training = TrainingSpec(seq_len=2048, global_batch=32, stack="megatron-zero-bubble")
    cluster = tiny_cluster(devices=4, memory_bytes=40e9)
    times, four = _MatmulsAlone(node=cluster.node), Fixed(pp=4, micro_batch=1)
    layer, head = (2 * weights * 2048 * 1e-12 for weights in (15 * 2048**2, 2048 * 262_144))
    turn = 3 * (4 * layer + head / 4)

    found = search(model, cluster, training, fixed=four, times=times)
    assert (found.plan.schedule, found.plan.vocabulary_parallel) == ("v-half", "vocab-2")
    assert _passes_until_the_end(32) == 32 * 6 + 5
    assert found.estimate.step_seconds == pytest.approx((32 + 5 / 6) * turn)

    one = search(model, cluster, training, fixed=four.but(schedule="1f1b"), times=times)
    assert one.plan.vocabulary_parallel == "vocab-2"
    assert one.estimate.step_seconds == pytest.approx((32 + 3) * turn)
    first, second = (memory.activations for memory in one.estimate.memory[:2])
    assert {round(memory.activations) for memory in found.estimate.memory} == {round(second)}
    assert first > second

    whole = search(model, cluster, training, fixed=four.but(vocabulary_parallel="none"), times=times)
    assert whole.plan.schedule == "zb-v"  # the rank with the head never waits
    assert whole.estimate.step_seconds == pytest.approx(32 * 3 * (4 * layer + head))


def _passes_until_the_end(microbatches: int) -> int:
    """The end of V-Half on four ranks, where every pass takes 1 and starts when its rank and what it needs are done."""
    orders = [
        [action for work in order for action in work.passes]
        for order in make_schedule("v-half", 4, 2, microbatches).orders
    ]
    ends: dict[Action, int] = {}
    clocks, places = [0] * 4, [0] * 4
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        for rank, order in enumerate(orders):
            while places[rank] < len(order) and _needs(order[places[rank]]) <= ends.keys():
                action = order[places[rank]]
                clocks[rank] = ends[action] = max([clocks[rank], *(ends[one] for one in _needs(action))]) + 1
                places[rank] += 1
    return max(clocks)


def _needs(action: Action) -> set[Action]:
    """What a pass waits for: the stage before or after it, or the forward of the last stage, or its own input gradient."""
    if action.kind is ActionKind.FORWARD:
        return {action._replace(stage=action.stage - 1)} if action.stage else set()
    if action.kind is ActionKind.WEIGHT_GRADIENT:
        return {action._replace(kind=ActionKind.INPUT_GRADIENT)}
    if action.stage == 7:
        return {action._replace(kind=ActionKind.FORWARD)}
    return {action._replace(stage=action.stage + 1)}
