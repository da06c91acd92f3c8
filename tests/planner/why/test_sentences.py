"""Explanations: the numbers in them are those of the estimates."""

import re

import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.planner.best_plan import search
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.why.alternatives import alternatives
from shardwright.planner.why.sentences import explain
from shardwright.specs.training import TrainingSpec
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
    assert (f"{again} of 16 layers are recomputed" if again else "no layer has to be recomputed") in lines[2]


def test_says_that_a_plan_does_not_fit(found: SearchResult) -> None:
    memory = explain(found.plan, _MODEL, tiny_cluster(devices=8, memory_bytes=3e9), _TRAINING)[2]
    assert "so this plan does not fit" in memory
    assert "does not fit" not in explain(found.plan, _MODEL, _CLUSTER, _TRAINING)[2]


def test_every_line_is_one_sentence_with_a_number(lines: list[str]) -> None:
    assert all(line.endswith(".") and "\n" not in line for line in lines)
    assert all(re.search(r"\d", line) or "does not fit" in line for line in lines)


def test_ends_with_how_sure_it_is(found: SearchResult, lines: list[str]) -> None:
    assert "80% probability" in lines[-1]
    assert "for the stack 'shardwright'" in lines[-2]
    assert f"Of {found.candidates_total:,} combinations" in lines[-3]


def test_says_where_runs_vary_for_reasons_no_plan_shows(found: SearchResult) -> None:
    def last(stack: str) -> str:
        return explain(found.plan, _MODEL, _CLUSTER, _TRAINING.model_copy(update={"stack": stack}))[-1]

    assert "vary for reasons no plan shows" in last("nanotron")
    assert "vary for reasons" not in last("megatron-core")


def test_of_a_plan_alone(found: SearchResult, lines: list[str]) -> None:
    alone = explain(found.plan, _MODEL, _CLUSTER, _TRAINING)
    assert alone[0] == lines[0]
    assert not any("combinations" in line for line in alone)


def test_alternatives_change_one_choice_and_are_not_faster(found: SearchResult) -> None:
    times = CatalogTimes(_CLUSTER, _TRAINING)
    others = list(alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, times, time_limit_seconds=10.0))
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
    assert any(re.search(r"optimizer on the device: does not fit, \d+\.\d GiB too much", line) for line in lacking)


def test_neighbours_keep_what_was_fixed() -> None:
    """Without that, a plan that has to recompute is told that plans without recomputation are faster."""
    found = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(recompute="full"))
    neighbours = alternatives(
        found.plan, _MODEL, _CLUSTER, _TRAINING, CatalogTimes(_CLUSTER, _TRAINING), fixed=found.fixed
    )
    seen = {
        other.change: {run.recompute for stage in other.plan.stages for run in stage.layers}
        for other in neighbours
        if other.plan
    }
    assert {"none"} == seen.pop("no recomputation")
    assert seen
    assert all(policies == {"full"} for policies in seen.values())
