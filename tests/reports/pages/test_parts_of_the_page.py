"""The smaller parts of a report: its picture of the plan, its traffic, its rivals and what it rests on."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel import charged_step, estimate_plan
from shardwright.reports.pages.bars import step_bars
from shardwright.reports.pages.basis import basis_rows
from shardwright.reports.pages.picture import mesh_boxes, rank_rows
from shardwright.reports.pages.rivals import Rival, complexity, rival_points, rival_rows
from shardwright.reports.pages.traffic import links_of, traffic_bars, traffic_rows
from shardwright.specs import LayerRun, Mesh, Offload, Plan, Stage, TrainingSpec
from tests.costmodel.test_mixed import MIXED

LLAMA, H100, TRAINING = (
    load_model("llama-3.1-8b"),
    load_cluster("h100-sxm:32"),
    TrainingSpec(seq_len=4096, global_batch=32),
)
STAGES = (
    Stage(layers=(LayerRun(count=4, recompute="full", zero_stage=1), LayerRun(count=12, zero_stage=1))),
    Stage(layers=(LayerRun(count=16, zero_stage=1),)),
)
PLAN = Plan(mesh=Mesh(pp=2, dp_shard=4, tp=4), micro_batch=1, microbatches=8, stages=STAGES)
MINE = estimate_plan(LLAMA, H100, TRAINING, PLAN)


def test_the_picture_has_every_axis_and_every_layer_once() -> None:
    assert [(box.name, box.degree) for box in mesh_boxes(PLAN)] == [("pp", 2), ("dp_shard", 4), ("tp", 4)]
    (first,), (last,) = (rank.stages for rank in rank_rows(PLAN))
    assert [(block.first, block.last, block.layers, block.policy) for block in first.blocks] == [
        (0, 3, 4, "full"),
        (4, 15, 12, "none"),
    ]
    assert [(block.first, block.last) for block in last.blocks] == [(16, 31)]
    assert (first.ends, last.ends, last.number) == (("embedding",), ("head",), 1)
    assert first.blocks[0].words == "full recompute, ZeRO-1"


def test_a_rank_shows_its_stages_in_the_order_of_the_model() -> None:
    """Interleaved stages return to a rank after a round; in a V the second half comes back."""
    stages = tuple(Stage(layers=(LayerRun(count=8, zero_stage=1),)) for _ in range(4))
    around = PLAN.model_copy(update={"stages": stages, "schedule": "interleaved-1f1b"})
    back = PLAN.model_copy(update={"stages": stages, "schedule": "zb-v"})
    assert [[stage.number for stage in rank.stages] for rank in rank_rows(around)] == [[0, 2], [1, 3]]
    assert [[stage.number for stage in rank.stages] for rank in rank_rows(back)] == [[0, 3], [1, 2]]


def test_a_single_rank_is_a_box() -> None:
    (box,) = mesh_boxes(Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(LayerRun(count=32),)),)))
    assert box.name == "1 rank"


def test_traffic_goes_over_the_link_that_its_ranks_share() -> None:
    """tp 4 stays in a node of 8; 4 shards beside it and the next stage do not."""
    links = links_of(PLAN, H100)
    assert links["tp"] == (4, "nvswitch 450 GB/s")
    assert links["dp"] == (4, "8 x infiniband 50 GB/s a node")
    assert links["pp"].link == links["dp"].link
    assert links_of(PLAN.model_copy(update={"mesh": Mesh(tp=8)}), H100).keys() == {"tp"}


def test_traffic_is_what_the_step_is_charged_for() -> None:
    charges, links = charged_step(LLAMA, H100, TRAINING, PLAN), links_of(PLAN, H100)
    bars = traffic_bars(charges, links)
    most = max(sum(charge.size_bytes for charge in rank.traffic.values()) for rank in charges)
    assert sum(size for part in bars.parts for size in part.values if size) == pytest.approx(most, rel=1e-12)
    assert bars.rows == ("nvswitch 450 GB/s", "8 x infiniband 50 GB/s a node")
    rows = traffic_rows(charges, links, MINE)
    assert {row[:2] for row in rows} >= {
        ("tp", "all-gather"),
        ("tp", "reduce-scatter"),
        ("dp", "reduce-scatter"),
        ("pp", "send"),
    }
    assert [row[0] for row in rows if row[-1]] == ["tp", "dp", "pp"]  # exposed seconds once for an axis


def test_rivals_stand_fastest_first_and_those_that_cannot_run_last() -> None:
    slow = estimate_plan(
        LLAMA,
        H100,
        TRAINING,
        other := PLAN.model_copy(update={"mesh": Mesh(pp=2, dp_shard=2, tp=8), "microbatches": 16}),
    )
    rivals = [
        Rival("none", None, None, "does not fit"),
        Rival("slow", other, slow, "compute +1 s"),
        Rival("same", PLAN, MINE, ""),
    ]
    rows = rival_rows(rivals, MINE)
    assert [(cells[0], runs) for cells, runs in rows] == [("same", True), ("slow", True), ("none", False)]
    assert rows[2][0][-1] == "does not fit"
    points = rival_points(rivals, PLAN, MINE)
    assert [[one.name for one in group.points] for group in points.groups] == [["slow"], ["this plan"]]
    assert points.groups[1].points[0].x == MINE.step_seconds


def test_complexity_counts_axes_and_what_is_off_the_device() -> None:
    assert complexity(PLAN) == 2
    assert complexity(PLAN.model_copy(update={"offload": Offload(optimizer_fraction=1)})) == 3
    assert complexity(PLAN.model_copy(update={"mesh": Mesh(dp_shard=32)})) == 0


def test_the_basis_names_the_source_of_each_figure() -> None:
    rows = basis_rows(H100, "bf16")
    assert rows[0][:2] == ("h100-sxm, bf16 peak", "989 TFLOP/s")
    assert any("NICs a node" in what for what, *_ in rows)
    assert all(source for *_, source in rows)
    assert {"h100-sxm, memory", "a100-sxm-80gb, memory"} <= {what for what, *_ in basis_rows(MIXED, "bf16")}


def test_bars_have_the_causes_that_take_time_and_their_exact_seconds() -> None:
    bars = step_bars([("one", MINE.step), ("two", MINE.step)], work=[1.0, 2.0])
    assert {part.colour for part in bars.parts} == {cause for cause, seconds in MINE.step if seconds}
    compute = next(part for part in bars.parts if part.colour == "compute")
    assert compute.values == (MINE.step.compute, MINE.step.compute / 2)
