"""Memory over the step: parts that stay and activations add up to the curve of the simulation."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel import estimate_plan, simulate_plan
from shardwright.reports.pages import memory as module
from shardwright.reports.pages.memory import memory_over_time
from shardwright.specs import LayerRun, Mesh, Plan, Stage, TrainingSpec

LLAMA, H100 = load_model("llama-3.1-8b"), load_cluster("h100-sxm:16")


def planned(recompute: str, microbatches: int = 8) -> tuple[Plan, TrainingSpec]:
    layers = LayerRun.parse({"count": 16, "recompute": recompute, "zero_stage": 1}, source="test")
    mesh = Mesh(pp=2, dp_shard=4, tp=2)
    plan = Plan(mesh=mesh, micro_batch=1, microbatches=microbatches, stages=(Stage(layers=(layers,)),) * 2)
    return plan, TrainingSpec(seq_len=4096, global_batch=4 * microbatches)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_parts_add_up_to_the_curve(recompute: str) -> None:
    plan, training = planned(recompute)
    estimate, timeline = estimate_plan(LLAMA, H100, training, plan), simulate_plan(LLAMA, H100, training, plan)
    chart = memory_over_time(estimate, timeline, H100)
    ranks = sorted(chart.ranks, key=lambda rank: rank.name)
    for rank, curve in zip(ranks, timeline.memory, strict=True):
        stays = sum(size for _, size in rank.held)
        assert [stays + size for size in rank.moving] == pytest.approx(curve.bytes.tolist(), rel=1e-6)
        assert stays + max(rank.moving) == pytest.approx(curve.peak_bytes, rel=1e-6)
        assert min(size for _, size in rank.held) > 0
    peaks = [memory.total for memory in estimate.memory]
    assert [sum(size for _, size in rank.held) + max(rank.moving) for rank in ranks] == pytest.approx(peaks, rel=1e-6)


def test_the_fullest_comes_first_and_the_marks_are_its_own() -> None:
    plan, training = planned("none")
    estimate, timeline = estimate_plan(LLAMA, H100, training, plan), simulate_plan(LLAMA, H100, training, plan)
    turned = type(timeline)(timeline.pp, timeline.spans, timeline.memory[::-1])
    swapped = estimate.model_copy(update={"memory": estimate.memory[::-1]})
    assert memory_over_time(swapped, turned, H100).ranks[0].name == "rank 1"
    usable, capacity = memory_over_time(estimate, timeline, H100).ranks[0].marks
    assert usable.value < capacity.value == H100.node.device.memory_bytes


def test_of_very_many_points_some_ranks_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, training = planned("none")
    job = (LLAMA, H100, training, plan)
    monkeypatch.setattr(module, "_MOST_POINTS", 10)
    assert [rank.name for rank in memory_over_time(estimate_plan(*job), simulate_plan(*job), H100).ranks] == [
        "rank 0",
        "rank 1",
    ]
