"""Context and expert parallelism of rows."""

import pytest

from shardwright.specs.mesh import Mesh
from shardwright.validation.layout.axes import RowAxes, axes_of_row, routing_of_row
from shardwright.validation.rows.stack import software_of_row
from shardwright.validation.table.table import SkippedRowError
from tests.validation.made_up_rows import plans_of, row

MEGATRON: dict[str, object] = {"framework": "Megatron-Core r0.10", "year": 2025, "zero_or_fsdp": "1"}
EXPERTS: dict[str, object] = {"experts": 128, "topk": 8, "moe_ffn": 1536, "notes": "MoE forced balance"}


def _axes(**changes: object) -> tuple[RowAxes, list[str]]:
    given = row(**changes)
    return axes_of_row(given, software_of_row(given).family)


@pytest.mark.parametrize(
    ("changes", "exchange", "assumed"),
    [
        ({}, "all-gather", "context exchanged by all-gather"),
        (MEGATRON, "ring", "context exchanged by ring"),
        (MEGATRON | {"notes": "DeepSpeed Ulysses"}, "ulysses", None),
        ({"notes": "ring attention, zig-zag"}, "ring", None),
    ],
)
def test_context_is_exchanged_as_stated_or_as_the_framework_does(
    changes: dict[str, object], exchange: str, assumed: str | None
) -> None:
    axes, assumptions = _axes(cp=4, dp=16, **changes)
    assert (axes.cp, axes.context_parallel) == (4, exchange)
    assert assumptions == ([assumed] if assumed else [])


def test_a_row_without_either_assumes_nothing() -> None:
    axes, assumptions = _axes()
    assert (axes.cp, axes.ep, assumptions) == (1, 1, [])


@pytest.mark.parametrize(
    ("changes", "ep", "dispatch", "assumed"),
    [
        ({"ep": 8}, 8, "all-to-all", []),
        ({"ep": 8, "notes": "deepep; forced balance"}, 8, "deduplicated", []),
        ({}, 1, "all-to-all", ["every rank holds every expert"]),
        ({"notes": "kernels=DeepEP; forced balance"}, 64, "deduplicated", ["experts spread as wide as they divide"]),
        ({"ep": 8, "notes": None}, 8, "all-to-all", ["experts evenly loaded"]),
    ],
)
def test_how_tokens_reach_their_experts(changes: dict[str, object], ep: int, dispatch: str, assumed: list[str]) -> None:
    axes, assumptions = _axes(**(EXPERTS | changes))
    assert (axes.ep, axes.expert_dispatch, assumptions) == (ep, dispatch, assumed)


def test_a_fake_gate_deals_experts_out_in_a_row() -> None:
    assert routing_of_row(row(notes="LBS=8; fake balanced gate; mock data")) == "consecutive"
    assert routing_of_row(row(notes="forced balance")) == "random"


def test_a_capacity_of_one_changes_nothing_under_an_even_load_and_a_larger_one_is_a_reason() -> None:
    axes, assumptions = _axes(**EXPERTS | {"notes": "tp4, ep8, capacity=1; forced balance"}, ep=8)
    assert axes.ep == 8
    assert "expert capacity 1 under an even load: nothing dropped, nothing padded" in assumptions
    with pytest.raises(SkippedRowError, match="expert capacity above 1"):
        _axes(**EXPERTS | {"notes": "tp4, ep8, capacity=1.5; forced balance"})


def test_a_setting_gives_the_dispatch() -> None:
    assert _axes(**EXPERTS, ep=8, settings="dispatch=deepep")[0].expert_dispatch == "deduplicated"
    assert _axes(**EXPERTS | {"notes": "DeepEP"}, settings="dispatch=all-to-all")[0].expert_dispatch == "all-to-all"


def test_what_does_not_fold_is_a_reason_or_another_zero_stage() -> None:
    with pytest.raises(SkippedRowError, match="experts over the ranks"):
        plans_of(row(**EXPERTS, ep=48), 40)
    found, _ = plans_of(row(**(MEGATRON | EXPERTS | {"zero_or_fsdp": None}), ep=32), 40)
    assert [plan.zero_stage for plan, _ in found.readings] == [1]


def test_plans_of_rows_with_both() -> None:
    stated = row(**(MEGATRON | EXPERTS), gpus=64, pp=2, tp=2, cp=2, dp=8, vpp=1, ep=8, micro_batch=1, global_batch=32)
    found, assumptions = plans_of(stated, 40)
    meshes = [reading.plan.mesh for reading in found.readings]
    # Megatron splits experts over tp unless told otherwise
    assert meshes == [Mesh(pp=2, dp_shard=8, cp=2, tp=2, ep=8, etp=2), Mesh(pp=2, dp_shard=8, cp=2, tp=2, ep=8)]
    plan = found.readings[0].plan
    assert (plan.context_parallel, plan.expert_dispatch, plan.global_batch) == ("ring", "all-to-all", 32)
    assert "context exchanged by ring" in assumptions


def test_a_setting_gives_expert_tensor_parallelism() -> None:
    stated = row(
        **(MEGATRON | EXPERTS), gpus=64, pp=2, tp=4, dp=8, vpp=1, ep=8, global_batch=32, settings="expert_tp=1"
    )
    found, _ = plans_of(stated, 40)
    assert {reading.plan.mesh.expert_tp for reading in found.readings} == {1}


def test_fsdp_over_context_parallel_ranks_alone() -> None:
    """torchtitan's FSDP 1, CP 8: the shards lie on the ranks of cp."""
    found, _ = plans_of(row(gpus=8, dp=1, cp=8, global_batch=1, micro_batch=1), 40)
    assert found.readings[0].plan.mesh == Mesh(cp=8)
    assert found.readings[0].plan.zero_stage == 3


def test_embedding_and_head_may_count_as_layers() -> None:
    """94 layers on 32 ranks of three stages each: Megatron's 96 with the two ends."""
    stated = row(
        **(MEGATRON | EXPERTS), gpus=256, pp=32, dp=8, vpp=3, ep=8, layers=94, micro_batch=1, global_batch=2048
    )
    found, _ = plans_of(stated, 94)
    counts = [stage.layer_count for stage in found.readings[0].plan.stages]
    assert counts == [0, *[1] * 94, 0]
