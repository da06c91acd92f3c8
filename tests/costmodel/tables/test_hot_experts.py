"""Hot experts on every rank: what a step moves and a rank holds for them, by hand."""

import pytest

from shardwright.costmodel.evaluate import estimate_plan, plan_costs
from shardwright.costmodel.op_times import op_times
from shardwright.specs.candidates import Candidates, ep_group
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import round_cluster, small_experts

MODEL, CLUSTER = small_experts(), round_cluster()
PLAN = Plan(
    mesh=Mesh(dp_shard=8, ep=4),
    micro_batch=1,
    microbatches=2,
    stages=(Stage(layers=(LayerRun(count=MODEL.layer_count, zero_stage=1),)),),
)
EXPERT = sum(p.elements for p in MODEL.layer_classes[0].parameters(MODEL.hidden_size) if p.expert) / 8


def training(hot: int) -> TrainingSpec:
    return TrainingSpec(seq_len=128, global_batch=16, hot_experts=hot, expert_imbalance=2.0)


def test_weights_and_gradients_of_hot_experts_are_held_over_the_step() -> None:
    none, two = (estimate_plan(MODEL, CLUSTER, training(hot), PLAN).memory[0] for hot in (0, 2))
    each = MODEL.layer_count * 2 * EXPERT
    assert two.gathered_parameters - none.gathered_parameters == pytest.approx(2 * each)
    assert two.gradients - none.gradients == pytest.approx(4 * each)
    assert two.optimizer_state == none.optimizer_state


def test_they_are_gathered_and_summed_once_a_step() -> None:
    """Beside no compute: a stack that gathers before its step and reduces after its last backward."""
    times = op_times(CLUSTER, training(0))
    group = ep_group(Candidates.of(PLAN), CLUSTER.node)
    gather, reduce = (
        float(times.collective_seconds(name, size * 2 * EXPERT, group)[0])  # type: ignore[arg-type]  # a name of two
        for name, size in (("all_gather", 2.0), ("reduce_scatter", 4.0))
    )
    late = {"stack": "megatron-lm"}
    costs = [
        plan_costs(
            MODEL, CLUSTER, TrainingSpec(seq_len=128, global_batch=16, hot_experts=hot, **late), PLAN
        ).stage_costs()
        for hot in (0, 2)
    ]
    once = [float(one.first_forward_extra.sum() + one.reduce_tail.sum()) for one in costs]
    assert once[1] - once[0] == pytest.approx(MODEL.layer_count * (gather + reduce), rel=0.05)
