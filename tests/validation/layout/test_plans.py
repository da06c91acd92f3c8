"""The plans that a row can mean."""

import pytest

from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import Plan
from shardwright.validation.table.table import SkippedRowError
from tests.validation.made_up_rows import plans_of, row

LAYERS = 40


def _only(**changes: object) -> Plan:
    found, assumptions = plans_of(row(**changes), LAYERS)
    assert (found.unknown, assumptions) == ((), [])
    ((plan, chosen),) = found.readings
    assert chosen == ()
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
    assert found.readings[0].plan.sequence_parallel
    assert assumptions == ["sequence parallelism beside tensor parallelism"]


def _plans(**changes: object) -> list[Plan]:
    return [reading.plan for reading in plans_of(row(**changes), LAYERS)[0].readings]


def test_an_unknown_micro_batch_is_a_power_of_two_that_divides() -> None:
    """The largest first without a pipeline, where people fill the memory; the smallest first with one."""
    found, assumptions = plans_of(row(micro_batch=None, global_batch=768), LAYERS)
    assert [(reading.plan.micro_batch, reading.chosen) for reading in found.readings] == [
        (4, (("micro batch", "4"),)),
        (2, (("micro batch", "2"),)),
        (1, (("micro batch", "1"),)),
    ]
    assert {reading.plan.global_batch for reading in found.readings} == {768}
    assert (found.unknown, assumptions) == (("micro batch",), [])
    pipelined = _plans(framework="Megatron-LM", pp=2, dp=32, vpp=1, micro_batch=None)
    assert [plan.micro_batch for plan in pipelined] == [1, 2, 4]


@pytest.mark.parametrize(
    ("framework", "year", "stages"),
    [
        ("torchtitan", 2024, [3]),
        ("Megatron-LM", 2021, [0, 1]),
        ("Megatron-DeepSpeed", 2021, [1, 0]),
        ("Megatron-Core", 2024, [1, 0]),
    ],
)
def test_an_unknown_zero_stage_is_what_the_framework_shards(framework: str, year: int, stages: list[int]) -> None:
    """FSDP shards parameters; DeepSpeed's scripts state ZeRO-1; Megatron has a distributed optimizer that recipes use since 2023."""
    plans = _plans(framework=framework, year=year, zero_or_fsdp=None)
    assert [plan.zero_stage for plan in plans] == stages
    assert [plan.mesh.dp_shard for plan in plans] == [64 if stage else 1 for stage in stages]


def test_the_least_recompute_comes_first_whatever_else_is_open() -> None:
    plans = _plans(framework="Megatron-LM", year=2021, zero_or_fsdp=None, recompute="unknown")
    full = [plan.stages[0].layers[0].count * (plan.stages[0].layers[0].recompute == "full") for plan in plans]
    assert full == [0, 0, 0, 0, 10, 10, 20, 20, 30, 30, 40, 40]
    assert [plan.zero_stage for plan in plans] == [0, 1] * 6
    assert [plan.stages[0].layers[0].recompute for plan in _plans(recompute=None)] == ["none", "selective", "full"]


@pytest.mark.parametrize(
    ("framework", "policy"), [("ms-swift 2.x (HF Trainer)", "full"), ("Megatron-SWIFT (Megatron-LM)", "selective")]
)
def test_swift_recomputes_by_default(framework: str, policy: str) -> None:
    found = _only(framework=framework, recompute="unknown")
    assert found.stages[0].layers[0].recompute == policy


def test_recomputed_modules_say_what_an_unknown_recompute_was() -> None:
    assert _only(recompute=None, settings="recompute_modules=none").stages[0].layers[0].recompute == "none"
    for stated in (None, "none", "selective"):
        named = _only(recompute=stated, settings="recompute_modules=layernorm+moe_act")
        assert named.stages[0].layers[0].recompute == "selective"
    assert _only(recompute="full", settings="recompute_modules=moe_act").stages[0].layers[0].recompute == "full"


def test_stages_are_even_where_layers_divide_and_differ_by_one_elsewhere() -> None:
    assert {stage.layer_count for stage in _plans(pp=8, dp=8)[0].stages} == {5}
    assert sorted(stage.layer_count for stage in _plans(pp=16, dp=4)[0].stages) == [2] * 8 + [3] * 8


@pytest.mark.parametrize("notes", ["AC=selective layer; x", "Selective per layer AC (every 2nd layer)"])
def test_every_second_layer_is_no_choice_of_the_search(notes: str) -> None:
    found, assumptions = plans_of(row(recompute="selective", notes=notes, micro_batch=None), LAYERS)
    assert [(run.count, run.recompute) for run in found.readings[0].plan.stages[0].layers] == [
        (20, "full"),
        (20, "none"),
    ]
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
    assert {plan.zero_stage for plan, _ in found.readings} == {zero_stage}


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
    assert {plan.micro_batch for plan, _ in found.readings} == micro_batches
    assert ("as many microbatches as pipeline ranks, torchtitan's default" in assumptions) == (micro_batches == {2})
