"""The plans that a row can mean."""

import pytest

from shardwright.planner.space.fixed import Fixed
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import Plan
from shardwright.validation.rows.table import SkippedRowError
from tests.validation.made_up_rows import plans_of, row

LAYERS = 40


def _only(**changes: object) -> Plan:
    found, assumptions = plans_of(row(**changes), LAYERS)
    assert (found.fixed, found.unknown, assumptions) == ((), (), [])
    (plan,) = found.plans
    return plan


def test_a_complete_row_is_one_plan() -> None:
    plan = _only()
    assert plan.mesh == Mesh(dp_shard=64)
    assert (plan.micro_batch, plan.microbatches, plan.global_batch) == (2, 1, 128)
    assert [(run.count, run.recompute, run.zero_stage) for run in plan.stages[0].layers] == [(40, "none", 3)]
    assert plan.offload.optimizer_fraction == 0


@pytest.mark.parametrize(
    ("stated", "zero_stage", "mesh"),
    [
        ("fsdp-full", 3, Mesh(dp_shard=64)),
        ("fsdp", 3, Mesh(dp_shard=64)),
        ("fsdp-grad-op", 2, Mesh(dp_shard=64)),
        ("3", 3, Mesh(dp_shard=64)),
        ("ZeRO-2", 2, Mesh(dp_shard=64)),
        ("1", 1, Mesh(dp_shard=64)),
        ("0", 0, Mesh(dp_replicate=64)),
        ("DDP", 0, Mesh(dp_replicate=64)),
        ("FSDP2", 3, Mesh(dp_shard=64)),
        ("zero_3", 3, Mesh(dp_shard=64)),
        ("distributed optimizer", 1, Mesh(dp_shard=64)),
    ],
)
def test_zero_and_fsdp_names(stated: str, zero_stage: int, mesh: Mesh) -> None:
    plan = _only(zero_or_fsdp=stated)
    assert (plan.zero_stage, plan.mesh) == (zero_stage, mesh)


def test_a_shard_group_smaller_than_the_data_parallel_ranks_replicates() -> None:
    plan = _only(zero_or_fsdp="1", notes="zero1 group size 8 (-1 = all DP ranks); micro_num 4")
    assert plan.mesh == Mesh(dp_replicate=8, dp_shard=8)
    assert _only(zero_or_fsdp="1", notes="zero1 group size -1 (-1 = all DP ranks)").mesh == Mesh(dp_shard=64)


def test_a_pipeline_with_chunks_is_interleaved() -> None:
    plan = _only(pp=4, dp=16, vpp=5, micro_batch=2, global_batch=128)
    assert plan.schedule == "interleaved-1f1b"
    assert [stage.layer_count for stage in plan.stages] == [2] * 20


def test_an_optimizer_on_the_host() -> None:
    assert _only(offload="optimizer (CPU offload, fused)").offload.optimizer_fraction == 1


def test_sequence_parallelism_as_stated() -> None:
    assert not _only(tp=8, dp=8, sp=False).sequence_parallel
    assert _only(tp=8, dp=8, sp=True).sequence_parallel
    found, assumptions = plans_of(row(tp=8, dp=8, sp=None), LAYERS)
    assert found.plans[0].sequence_parallel
    assert assumptions == ["sequence parallelism beside tensor parallelism"]


def test_an_unknown_micro_batch_is_left_to_the_search_with_all_else_fixed() -> None:
    found, assumptions = plans_of(row(micro_batch=None, global_batch=768), LAYERS)
    assert sorted(plan.micro_batch for plan in found.plans) == [1, 2, 3, 4, 6, 12]
    assert {plan.global_batch for plan in found.plans} == {768}
    assert found.unknown == ("micro batch",)
    (fixed,) = found.fixed
    assert fixed == Fixed(
        tp=1,
        pp=1,
        dp_replicate=1,
        dp_shard=64,
        zero_stage=3,
        schedule="1f1b",
        stages_per_rank=1,
        recompute="none",
        offload_optimizer=0,
        even_stages=True,
        sequence_parallel=False,
    )
    assert assumptions == []


def test_an_unknown_zero_stage_is_one_search_for_each_that_the_framework_has() -> None:
    unknown: dict[str, object] = {"micro_batch": None, "recompute": "unknown", "zero_or_fsdp": None}
    found, _ = plans_of(row(**unknown), LAYERS)
    assert found.unknown == ("ZeRO stage", "micro batch", "recompute")
    assert [fixed.zero_stage for fixed in found.fixed] == [0, 1, 2, 3]
    assert [(fixed.dp_replicate, fixed.dp_shard) for fixed in found.fixed] == [(64, 1), (1, 64), (1, 64), (1, 64)]
    assert {fixed.recompute for fixed in found.fixed} == {None}
    assert len(set(found.plans)) == len(found.plans) == 4 * 2 * 3
    megatron, _ = plans_of(row(**unknown, framework="Megatron-LM"), LAYERS)
    assert [fixed.zero_stage for fixed in megatron.fixed] == [0, 1]


def test_stages_that_cannot_be_even_are_not_held_to_be() -> None:
    found, _ = plans_of(row(pp=16, dp=4, recompute=None), LAYERS)
    assert [fixed.even_stages for fixed in found.fixed] == [None]
    assert sorted(stage.layer_count for stage in found.plans[0].stages) == [2] * 8 + [3] * 8


def test_every_second_layer_is_no_choice_of_the_search() -> None:
    found, assumptions = plans_of(row(recompute="selective", notes="AC=selective layer; x", micro_batch=None), LAYERS)
    assert found.fixed == ()
    assert [(run.count, run.recompute) for run in found.plans[0].stages[0].layers] == [(20, "full"), (20, "none")]
    assert assumptions == ["selective recompute by layer: every second one"]


def test_checkpointing_that_a_remark_adds_counts() -> None:
    plan = _only(recompute=None, notes="cumulative technique: + Activation Checkpointing; memory 24.9 GiB")
    assert plan.stages[0].layers[0].recompute == "full"
    before = _only(recompute=None, notes="cumulative technique: + Compile; memory 51.0 GiB")
    assert before.stages[0].layers[0].recompute == "none"


def test_hybrid_sharding_without_a_number_is_within_a_node() -> None:
    assert _only(zero_or_fsdp="HSDP").mesh == Mesh(dp_replicate=8, dp_shard=8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cp": 2}, r"tp \* pp \* cp \* dp is not"),
        ({"ep": 48}, "experts over the ranks"),
        ({"offload": "params+optimizer (full offload)"}, "offload of parameters"),
        ({"offload": "activations(checkpoint-in-cpu)"}, "offload of parameters or activations"),
        ({"tp": None}, "tp or pp unknown"),
        ({"dp": None, "gpus": None}, "dp unknown"),
        ({"dp": 32}, "is not the number of devices"),
        ({"global_batch": None}, "global_batch unknown"),
        ({"global_batch": 100}, "not a multiple of dp"),
        ({"micro_batch": 3}, r"not a multiple of dp \* micro_batch"),
        ({"zero_or_fsdp": "zero-infinity"}, "'zero-infinity' is not known"),
        ({"recompute": "sometimes"}, "'sometimes' is not known"),
        ({"pp": 64, "dp": 1}, "fewer layers than pipeline ranks"),
        ({"pp": 4, "dp": 16, "vpp": 2, "global_batch": 96}, "do not divide by the schedule"),
        ({"pp": 4, "dp": 16, "vpp": 11}, "do not divide by the schedule"),
    ],
)
def test_what_no_plan_says_is_a_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        plans_of(row(**changes), LAYERS)


@pytest.mark.parametrize(
    ("framework", "pp", "zero_stage"), [("torchtitan", 1, 3), ("torchtitan", 4, 1), ("PyTorch", 4, 3)]
)
def test_torchtitan_keeps_parameters_gathered_in_a_pipeline(framework: str, pp: int, zero_stage: int) -> None:
    found, _ = plans_of(row(framework=framework, pp=pp, dp=64 // pp, zero_or_fsdp="fsdp"), 40)
    assert {plan.zero_stage for plan in found.plans} == {zero_stage}


@pytest.mark.parametrize(
    ("framework", "pp", "micro_batches"),
    [("torchtitan", 4, {2}), ("torchtitan", 1, {1, 2}), ("Megatron-LM", 4, {1, 2, 4, 8})],
)
def test_torchtitan_makes_as_many_microbatches_as_pipeline_ranks(
    framework: str, pp: int, micro_batches: set[int]
) -> None:
    """8 sequences a rank at pp 4, 2 at pp 1."""
    given = row(framework=framework, pp=pp, dp=64 // pp, micro_batch=None, global_batch=128, vpp=1)
    found, assumptions = plans_of(given, 40)
    assert {plan.micro_batch for plan in found.plans} == micro_batches
    assert ("as many microbatches as pipeline ranks, torchtitan's default" in assumptions) == (micro_batches == {2})
