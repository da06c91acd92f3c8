"""Named strategies as plans."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.comparison.strategies import STRATEGIES, levels_of, strategies_for
from shardwright.costmodel.checks import check_plan
from shardwright.specs.mesh import Mesh
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster
from tests.validation.made_up_rows import row

MODEL, _ = model_of_row(row())
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)


@pytest.mark.parametrize("name", strategies_for(MODEL))
def test_every_plan_is_valid_and_uses_every_device(name: str) -> None:
    plans = [plan for level in levels_of(name, MODEL, cluster(4), TRAINING) for plan in level]
    assert plans
    assert len(set(plans)) == len(plans)
    for plan in plans:
        check_plan(plan, MODEL, cluster(4), TRAINING)
        assert plan.mesh.ranks == 32


@pytest.mark.parametrize(
    ("name", "mesh", "zero_stage"),
    [
        ("ddp", Mesh(dp_replicate=32), 0),
        ("zero1", Mesh(dp_shard=32), 1),
        ("zero2", Mesh(dp_shard=32), 2),
        ("zero3", Mesh(dp_shard=32), 3),
        ("zero3-offload", Mesh(dp_shard=32), 3),
        ("hsdp", Mesh(dp_shard=8, dp_replicate=4), 3),
        ("tp+dp", Mesh(tp=8, dp_replicate=4), 0),
    ],
)
def test_meshes_without_a_pipeline(name: str, mesh: Mesh, zero_stage: int) -> None:
    levels = levels_of(name, MODEL, cluster(4), TRAINING)
    assert [{plan.stages[0].layers[0].recompute for plan in level} for level in levels] == [
        {"none"},
        {"selective"},
        {"full"},
    ]
    assert {(plan.mesh, plan.zero_stage) for level in levels for plan in level} == {(mesh, zero_stage)}


def test_micro_batches_range_over_the_divisors() -> None:
    (level, *_) = levels_of("tp+dp", MODEL, cluster(4), TRAINING)
    assert [(plan.micro_batch, plan.microbatches) for plan in level] == [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]


def test_megatron_splits_the_nodes_between_pipeline_and_data() -> None:
    (level, *_) = levels_of("megatron", MODEL, cluster(4), TRAINING)
    assert {(plan.mesh.pp, plan.mesh.dp, plan.mesh.tp) for plan in level} == {(1, 4, 8), (2, 2, 8), (4, 1, 8)}
    assert {plan.zero_stage for plan in level if plan.mesh.dp > 1} == {1}


def test_tensor_parallelism_is_the_largest_that_divides_the_model() -> None:
    narrow, _ = model_of_row(row(heads=20, kv_heads=4, hidden=5120))
    (level, *_) = levels_of("tp+dp", narrow, cluster(4), TRAINING)
    assert {plan.mesh.tp for plan in level} == {4}


def test_a_batch_that_does_not_divide_says_so() -> None:
    with pytest.raises(SpecError, match="zero3 does not divide a global batch of 48 over the 32 devices"):
        levels_of("zero3", MODEL, cluster(4), TrainingSpec(seq_len=4096, global_batch=48))


def test_megatron_uses_the_divisions_that_divide_the_batch() -> None:
    plans = levels_of("megatron", MODEL, cluster(3), TRAINING)
    assert {plan.mesh.pp for level in plans for plan in level} == {3}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown strategy 'zero4'; known: ddp.*Did you mean 'zero"):
        levels_of("zero4", MODEL, cluster(4), TRAINING)


def test_experts_are_spread_over_a_node_where_there_are_any() -> None:
    mixtral = load_model("mixtral-8x7b")
    (level, *_) = levels_of("ep+dp", mixtral, load_cluster("h100-sxm:16"), TRAINING)
    assert {plan.mesh for plan in level} == {Mesh(dp_shard=16, ep=8)}
    for plan in level:
        check_plan(plan, mixtral, load_cluster("h100-sxm:16"), TRAINING)
    with pytest.raises(SpecError, match="ep\\+dp spreads experts, and"):
        levels_of("ep+dp", MODEL, cluster(4), TRAINING)
    assert set(strategies_for(mixtral)) - set(strategies_for(MODEL)) == {"ep+dp"}
    assert strategies_for(mixtral) == list(STRATEGIES)


def test_the_optimizer_of_an_offloaded_plan_is_on_the_host() -> None:
    levels = levels_of("zero3-offload", MODEL, cluster(4), TRAINING)
    assert {plan.offload.optimizer_fraction for level in levels for plan in level} == {1}


def test_hybrid_sharding_needs_nodes_of_several_devices() -> None:
    with pytest.raises(SpecError, match="hsdp shards inside a node"):
        levels_of("hsdp", MODEL, load_cluster("h100-sxm:1"), TRAINING)


@pytest.mark.parametrize(("other", "name"), [("fsdp", "zero3"), ("megatron-3d", "megatron")])
def test_other_names(other: str, name: str) -> None:
    job = (MODEL, cluster(8), TRAINING)
    assert levels_of(other, *job) == levels_of(name, *job)
