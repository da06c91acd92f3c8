"""The configurations: valid, different, and spread as they claim."""

import pytest

from shardwright.benchmarks.own.configuration import IN_BF16, TWELVE, OwnConfiguration
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.checks import check_plan

EVERY = (*TWELVE, *IN_BF16)


def test_there_are_twelve_and_no_two_share_a_name() -> None:
    assert len(TWELVE) == 12
    assert len({each.name for each in EVERY}) == len(EVERY)


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
def test_each_can_be_planned_for_one_rank_and_holds_bytes(each: OwnConfiguration) -> None:
    check_plan(each.plan, each.model, load_cluster("h100-sxm:1"), each.training)
    assert each.vocabulary >= 256
    assert each.plan.global_batch == each.training.global_batch == each.micro_batch * each.microbatches


def test_sizes_reach_the_model_and_the_training() -> None:
    each = OwnConfiguration(
        hidden=64,
        width=96,
        layers=3,
        heads=4,
        kv_heads=2,
        length=32,
        micro_batch=2,
        microbatches=5,
        vocabulary=300,
        recompute="full",
        compute="bf16",
    )
    embeddings, attention, feed_forward, norms = 2 * 300 * 64, 64 * (64 + 32 + 32 + 64), 3 * 64 * 96, 2 * 64
    assert each.model.parameter_count == embeddings + 3 * (attention + feed_forward + norms) + 64
    assert (each.training.seq_len, each.training.global_batch) == (32, 10)
    assert each.training.precision.compute == "bf16"
    assert {run.recompute for run in each.plan.stages[0].layers} == {"full"}
    assert each.plan.layer_count == 3
    assert each.name == "h64/96 a4/2 L3 s32 b2x5 v300 recompute bf16"


def test_each_dimension_that_predictions_are_judged_by_varies() -> None:
    for name in ("hidden", "layers", "length", "micro_batch", "microbatches", "vocabulary", "recompute"):
        assert len({getattr(each, name) for each in TWELVE}) > 1, name
    assert {each.compute for each in TWELVE} == {"fp32"}
    assert {each.compute for each in IN_BF16} == {"bf16"}
