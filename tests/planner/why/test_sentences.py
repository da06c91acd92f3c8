"""Explanations: the numbers in them are those of the estimates."""

import re
from dataclasses import replace
from typing import Any

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.best_plan import search
from shardwright.planner.branching.result import AsGiven, RunnerUp, SearchResult
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.why.alternatives import alternatives
from shardwright.planner.why.sentences import explain, what_was_chosen
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import round_cluster
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL = tiny_model(layers=16, hidden=2048, vocab=20000)
_CLUSTER = tiny_cluster(devices=8, memory_bytes=6e9)
_TRAINING = TrainingSpec(seq_len=2048, global_batch=32)


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return search(_MODEL, _CLUSTER, _TRAINING)


@pytest.fixture(scope="module")
def lines(found: SearchResult) -> list[str]:
    return explain(found, _MODEL, _CLUSTER, _TRAINING)


def test_begins_with_the_plan_and_its_step(found: SearchResult, lines: list[str]) -> None:
    assert lines[0].startswith(str(found.plan.mesh))
    assert f"{found.estimate.tokens_per_s:,.0f} tokens/s" in lines[0]


def test_names_the_fullest_rank(found: SearchResult, lines: list[str]) -> None:
    assert f"{found.estimate.peak_memory_bytes / 2**30:.1f} of " in lines[2]
    again = sum(layer.recompute != "none" for stage in found.plan.stages for layer in stage.each_layer())
    assert (f"recomputes {again} of 16 layers" if again else "recomputes no layer") in lines[2]


def test_says_that_a_plan_does_not_fit(found: SearchResult) -> None:
    memory = explain(found.plan, _MODEL, tiny_cluster(devices=8, memory_bytes=3e9), _TRAINING)[2]
    assert "The plan does not fit." in memory
    assert "does not fit" not in explain(found.plan, _MODEL, _CLUSTER, _TRAINING)[2]


def test_every_line_is_one_sentence_with_a_number(lines: list[str]) -> None:
    assert all(line.endswith(".") and "\n" not in line for line in lines)
    assert all(re.search(r"\d", line) for line in lines)


def test_ends_with_how_sure_it_is(found: SearchResult, lines: list[str]) -> None:
    assert "80% probability" in lines[-1]
    assert "for the stack 'shardwright'" in lines[-2]
    assert f"Of {found.candidates_total:,} combinations" in lines[-3]


def test_says_where_runs_vary_for_reasons_no_plan_shows(found: SearchResult) -> None:
    def last(stack: str) -> str:
        return explain(found.plan, _MODEL, _CLUSTER, _TRAINING.model_copy(update={"stack": stack}))[-1]

    assert "vary for reasons outside the plan" in last("nanotron")
    assert "vary for reasons" not in last("megatron-core")


def test_of_a_plan_alone(found: SearchResult, lines: list[str]) -> None:
    alone = explain(found.plan, _MODEL, _CLUSTER, _TRAINING)
    assert alone[0] == lines[0]
    assert not any("combinations" in line for line in alone)


def test_alternatives_change_one_choice_and_are_not_faster(found: SearchResult) -> None:
    times = op_times(_CLUSTER, _TRAINING)
    others = list(alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, times))
    assert len({other.change for other in others}) == len(others) >= 4
    for other in others:
        if other.plan is None or other.estimate is None:
            assert other.plan is None
            continue
        assert other.plan != found.plan
        assert other.estimate == estimate_plan(_MODEL, _CLUSTER, _TRAINING, other.plan)
        assert other.estimate.step_seconds >= found.bound_seconds


def test_an_alternative_that_does_not_fit_says_what_it_lacks() -> None:
    cluster = tiny_cluster(devices=2, memory_bytes=8e9)
    found = search(_MODEL, cluster, _TRAINING, fixed=Fixed(offload_optimizer=1, tp=1, pp=2, schedule="1f1b"))
    lines = explain(found, _MODEL, cluster, _TRAINING)
    lacking = [line for line in lines if "does not fit" in line]
    assert any(
        re.search(r"optimizer on the device: does not fit, a device lacks \d+\.\d GiB", line) for line in lacking
    )


def test_neighbours_keep_what_was_fixed() -> None:
    """Without that, a plan that has to recompute is told that plans without recomputation are faster."""
    found = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(recompute="full"))
    neighbours = alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, op_times(_CLUSTER, _TRAINING), fixed=found.fixed)
    seen = {
        other.change: {run.recompute for stage in other.plan.stages for run in stage.layers}
        for other in neighbours
        if other.plan
    }
    assert {"none"} == seen.pop("no recomputation")
    assert seen
    assert all(policies == {"full"} for policies in seen.values())


@pytest.mark.parametrize("fixed", [{}, {"recompute": "selective"}, {"sequence_parallel": False}, {"micro_batch": 2}])
def test_what_a_neighbour_costs_is_what_the_search_finds_with_it(fixed: dict[str, Any]) -> None:
    found = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(**fixed))
    times = op_times(_CLUSTER, _TRAINING)
    others = list(alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, times, fixed=found.fixed, most_solved=10_000))
    is_fsdp = found.plan.mesh.dp_shard == _CLUSTER.devices and found.plan.zero_stage == 3
    assert is_fsdp != any("FSDP alone" in other.change for other in others)
    for other in others:
        assert other.complete
        if other.estimate is None:
            with pytest.raises((InfeasibleError, SpecError)):
                search(_MODEL, _CLUSTER, _TRAINING, fixed=other.fixed)
            continue
        best = search(_MODEL, _CLUSTER, _TRAINING, fixed=other.fixed)
        assert other.estimate.step_seconds == pytest.approx(best.estimate.step_seconds, rel=1e-8)


def test_repeated_runs_print_the_same(found: SearchResult) -> None:
    first, second = (explain(found.plan, _MODEL, _CLUSTER, _TRAINING) for _ in range(2))
    assert first == second


def test_fsdp_alone_is_there_even_where_it_does_not_divide() -> None:
    training = TrainingSpec(seq_len=2048, global_batch=4)
    plan = search(_MODEL, _CLUSTER, training).plan
    lines = explain(plan, _MODEL, _CLUSTER, training)
    assert "FSDP alone (dp_shard8, ZeRO-3) does not divide the model, the batch or the cluster." in lines


def test_much_slower_is_told_as_a_ratio() -> None:
    cluster = tiny_cluster(devices=8, devices_per_node=1, nic_bytes_per_s=1e8)
    found = search(_MODEL, cluster, _TRAINING)
    lines = explain(found, _MODEL, cluster, _TRAINING)
    assert any(re.search(r"\d\.\d times as long", line) for line in lines)
    assert not any(re.search(r"\d{3,}\.\d%", line) for line in lines)


def test_other_degrees_of_ep_are_neighbours() -> None:
    model, training = load_model("qwen1.5-moe-a2.7b"), TrainingSpec(seq_len=1024, global_batch=8)
    cluster = load_cluster("h100-sxm:8")
    fixed = search(model, cluster, training, fixed=Fixed(ep=4), runners_up=0)
    changes = [
        other.change for other in alternatives(fixed.plan, model, cluster, training, op_times(cluster, training))
    ]
    assert {"ep 2 instead of 4"} <= set(changes)
    assert "cp 2 instead of 1" not in changes  # half of 1024 tokens is too few


def test_fsdp_alone_spreads_no_experts() -> None:
    model, training = load_model("qwen1.5-moe-a2.7b"), TrainingSpec(seq_len=4096, global_batch=64)
    cluster = load_cluster("h100-sxm:8")
    found = search(model, cluster, training, fixed=Fixed(tp=2), runners_up=0)
    others = alternatives(found.plan, model, cluster, training, op_times(cluster, training))
    (alone,) = (other for other in others if other.change.startswith("FSDP alone"))
    assert alone.plan is not None
    assert str(alone.plan.mesh) == "dp_shard8"
    freely = search(model, cluster, training, fixed=alone.fixed.but(cp=None, ep=None), runners_up=0)
    assert freely.plan.mesh.ep > 1  # it would be faster


def test_neighbours_keep_the_stages_even_where_the_stack_has_no_others() -> None:
    model, cluster = load_model("llama-3.2-1b"), load_cluster("h100-sxm:6")
    training = TrainingSpec(seq_len=1024, global_batch=48, stack="megatron-lm")
    found = search(model, cluster, training, runners_up=0)
    others = list(alternatives(found.plan, model, cluster, training, op_times(cluster, training)))
    assert others
    for other in others:
        assert other.plan is None or len({stage.layer_count for stage in other.plan.stages}) == 1
        assert other.fixed.even_stages


def test_changes_that_lead_to_the_same_plan_are_told_together(found: SearchResult, lines: list[str]) -> None:
    others = alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, op_times(_CLUSTER, _TRAINING))
    by_plan: dict[Plan, list[str]] = {}
    for other in others:
        if other.plan is not None:
            by_plan.setdefault(other.plan, []).append(other.change)
    assert any(len(changes) > 1 for changes in by_plan.values())
    for plan, changes in by_plan.items():
        (line,) = [line for line in lines if changes[0] in line and line.startswith("With")]
        assert all(change in line for change in changes)
        assert f" on {plan.mesh}, " in line


def test_choices_whose_given_values_lead_to_the_same_plan_share_a_line(found: SearchResult) -> None:
    mesh = found.plan.mesh.model_copy(update={"dp_shard": found.plan.mesh.dp_shard * 2})
    other = RunnerUp(found.plan.model_copy(update={"mesh": mesh}), 0.9 * found.estimate.step_seconds)
    slower = RunnerUp(found.plan, 1.5 * found.estimate.step_seconds)
    names = {"loss_chunks": other, "linear": slower, "recompute_modules": other}
    chosen = replace(found, as_given=tuple(AsGiven(name, fastest) for name, fastest in names.items()))
    shared, alone = what_was_chosen(chosen)
    assert "one piece and selective recompute of" in shared
    assert f"the fastest plan ({mesh}) takes" in shared
    assert shared.endswith("10.0% faster, but this plan is simpler.")
    assert alone.endswith("50.0% slower.")


@pytest.mark.parametrize("optimizer", ["muon", "galore:rank=64,layerwise=1"])
def test_neighbours_are_updated_by_the_optimizer(optimizer: str) -> None:
    """Of several microbatches or with its state on the host no layer could be updated as the optimizer does it."""
    training = TrainingSpec.parse({"seq_len": 512, "global_batch": 4, "optimizer": optimizer}, source="test")
    found = search(_MODEL, round_cluster(devices_per_node=1, nodes=1), training)
    assert len(explain(found, _MODEL, round_cluster(devices_per_node=1, nodes=1), training)) > 3
