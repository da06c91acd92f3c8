"""The plans that a row can mean."""

import pytest

from shardwright.benchmarks.row_plan import plans_of_row
from shardwright.benchmarks.skipped_row import SkippedRowError
from shardwright.costmodel.plan import Mesh, Plan
from tests.benchmarks.rows import row

LAYERS = 40


def _only(**changes: object) -> Plan:
    (plan,), assumptions = plans_of_row(row(**changes), LAYERS)
    assert assumptions == []
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


def test_an_unknown_micro_batch_ranges_over_the_divisors() -> None:
    plans, assumptions = plans_of_row(row(micro_batch=None, global_batch=768), LAYERS)
    assert sorted(plan.micro_batch for plan in plans) == [1, 2, 3, 4, 6, 12]
    assert {plan.global_batch for plan in plans} == {768}
    assert assumptions == ["micro batch: the fastest predicted"]


def test_several_unknowns_multiply() -> None:
    plans, assumptions = plans_of_row(row(micro_batch=None, recompute="unknown", zero_or_fsdp=None), LAYERS)
    assert len(plans) == 2 * 3 * 2
    assert len(set(plans)) == len(plans)
    assert len(assumptions) == 3


def test_only_frameworks_that_interleave_leave_the_chunks_open() -> None:
    changes: dict[str, object] = {"pp": 4, "dp": 16, "vpp": None}
    megatron, assumptions = plans_of_row(row(**changes, framework="Megatron-Core r0.8.0"), LAYERS)
    assert sorted(plan.stages_per_rank for plan in megatron) == [1, 2, 5, 10]
    assert assumptions == ["chunks per pipeline rank: the fastest predicted"]
    deepspeed, assumptions = plans_of_row(row(**changes, framework="Megatron-LM + DeepSpeed ZeRO-3"), LAYERS)
    assert [plan.schedule for plan in deepspeed] == ["1f1b"]
    assert assumptions == []


def test_selective_recompute_that_is_another_says_so() -> None:
    _, assumptions = plans_of_row(row(recompute="selective", framework="torchtitan (PyTorch FSDP2)"), LAYERS)
    assert assumptions == ["selective recompute of other operators read as the attention core"]
    _, assumptions = plans_of_row(row(recompute="selective", framework="Megatron-LM"), LAYERS)
    assert assumptions == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cp": 2}, "context parallelism"),
        ({"ep": 8}, "expert parallelism"),
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
        ({"pp": 4, "dp": 16, "vpp": 2, "global_batch": 96}, "interleaved"),
    ],
)
def test_what_no_plan_says_is_a_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        plans_of_row(row(**changes), LAYERS)
