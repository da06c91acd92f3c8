"""Plans in words."""

from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.plan_summary import parameter_words, schedule_words
from shardwright.reports.plan.words import (
    choice_words,
    plan_lines,
    recompute_words,
    sharding_words,
    training_lines,
)
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Offload, Plan, Stage
from shardwright.specs.training import Precision, TrainingSpec


def _plan(mesh: Mesh, *stages: tuple[LayerRun, ...], **changes: object) -> Plan:
    given = {"mesh": mesh, "micro_batch": 1, "microbatches": 4, "stages": tuple(Stage(layers=s) for s in stages)}
    return Plan.model_validate(given | changes)


def test_recompute_counts_layers_where_they_differ() -> None:
    run = LayerRun(count=3, recompute="full")
    assert recompute_words(_plan(Mesh(), (run,))) == "full"
    assert recompute_words(_plan(Mesh(), (run, LayerRun(count=5)))) == "none 5, full 3"


def test_schedules() -> None:
    one = (LayerRun(count=1),)
    assert schedule_words(_plan(Mesh(), one)) == "none"
    assert schedule_words(_plan(Mesh(pp=2), one, one)) == "1f1b"
    interleaved = _plan(Mesh(pp=2), one, one, one, one, schedule="interleaved-1f1b")
    assert schedule_words(interleaved) == "interleaved-1f1b, 2 stages a rank"


def test_sharding_names_its_ranks_and_copies() -> None:
    run = (LayerRun(count=1, zero_stage=3),)
    assert "ZeRO-3) over 4 ranks" in sharding_words(_plan(Mesh(dp_shard=4), run))
    assert sharding_words(_plan(Mesh(dp_shard=4, dp_replicate=2), run)).endswith("over 4 ranks, 2 copies")
    assert sharding_words(_plan(Mesh(dp_replicate=2), (LayerRun(count=1),))) == "replicated"


def test_parameters_say_what_is_active_where_experts_are_routed_to() -> None:
    assert parameter_words(load_model("llama-3.2-1b")) == "1.24 G parameters"
    assert parameter_words(load_model("mixtral-8x7b")) == "46.7 G parameters, 12.9 G of them active"


def test_lines_say_uneven_stages_and_the_host() -> None:
    uneven = _plan(Mesh(pp=2), (LayerRun(count=1),), (LayerRun(count=2),), offload=Offload(optimizer_fraction=1))
    lines = dict(plan_lines(uneven))
    assert lines["stages"] == "2 of 1 to 2 layers"
    assert lines["optimizer"] == "on the host"
    assert "sequence parallel" not in lines


def test_choices_in_one_line() -> None:
    run = LayerRun(count=2, zero_stage=1, recompute="full")
    plan = _plan(Mesh(pp=2, dp_shard=4), (run,), (run,), offload=Offload(optimizer_fraction=1))
    assert choice_words(plan) == ("pp2 x dp_shard4; ZeRO-1; 1f1b; micro batch 1; recompute full; optimizer on the host")
    assert choice_words(_plan(Mesh(), (LayerRun(count=1),))) == "1 rank; micro batch 1; recompute none"


def test_of_the_training_only_what_is_not_as_usual() -> None:
    usual = TrainingSpec(seq_len=128, global_batch=4)
    assert training_lines(usual) == []
    other = TrainingSpec(seq_len=128, global_batch=4, stack="xla", precision=Precision(linear="fp8"))
    assert dict(training_lines(other)) == {"software": "xla", "linear layers": "fp8, the rest bf16"}
