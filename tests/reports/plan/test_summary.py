"""The short form: about ten lines of 80 columns that hold the numbers they were given."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.comparison.strategies import levels_of
from shardwright.reports.plan.comparison import ComparedPlan
from shardwright.reports.plan.summary import Summary, slower, summary_text
from shardwright.specs.plan import LayerRun, Offload, Plan, Stage
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster, estimate_plan
from tests.validation.made_up_rows import row

MODEL, _ = model_of_row(row())
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
CLUSTER = cluster(4)


def _plan(name: str) -> Plan:
    plans = levels_of(name, MODEL, CLUSTER, TRAINING)[0]
    return next(plan for plan in plans if name != "megatron" or (plan.zero_stage == 1 and plan.mesh.pp > 1))


def _summary(plan: Plan, **changes: Any) -> Summary:
    values: dict[str, Any] = {"rival": None, "candidates": 1234, "gap": 0.0, "complete": True} | changes
    estimate = estimate_plan(MODEL, CLUSTER, TRAINING, plan)
    return Summary(model=MODEL, cluster=CLUSTER, training=TRAINING, plan=plan, estimate=estimate, **values)


def _line(summary: Summary, label: str) -> str:
    """The text behind a label, its wrapped lines joined."""
    found, inside = [], False
    for line in summary_text(summary).splitlines():
        inside = line.startswith(label) or (inside and line.startswith(" "))
        found += [line[10:]] if inside else []
    return " ".join(found)


@pytest.mark.parametrize("name", ["ddp", "zero3", "tp+dp", "megatron"])
def test_it_fits_80_columns_and_about_ten_lines(name: str) -> None:
    lines = summary_text(_summary(_plan(name), notes=("A note of " + "many " * 30 + "words.",))).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 15


def test_a_name_that_is_too_long_does_not_break_it() -> None:
    named = replace(_summary(_plan("ddp")), model=MODEL.model_copy(update={"name": "x" * 200}))
    assert "x" * 80 in summary_text(named)


def test_choices() -> None:
    plan = _plan("megatron").model_copy(update={"offload": Offload(optimizer_fraction=1)})
    text = _line(_summary(plan), "plan")
    assert text.startswith(f"{plan.mesh}, ZeRO-1")
    assert text.endswith("no recompute, optimizer on the host")


def test_recompute_of_some_layers_names_their_count() -> None:
    plan = _plan("ddp")
    count = plan.layer_count
    mixed = (LayerRun(count=count - 3), LayerRun(count=3, recompute="full"))
    assert f"full recompute in 3 of {count} layers" in _line(
        _summary(plan.model_copy(update={"stages": (Stage(layers=mixed),)})), "plan"
    )


def test_the_bound_is_the_largest_part_of_the_step() -> None:
    summary = _summary(_plan("megatron"))
    name, seconds = max(summary.estimate.step, key=lambda part: part[1])
    assert _line(summary, "bound by").startswith(name.replace("_", " "))
    assert f"({100 * seconds / summary.estimate.step_seconds:.1f}%)" in _line(summary, "bound by")


def test_the_simplest_rival_and_what_it_costs() -> None:
    plan, other = _plan("megatron"), _plan("zero3")
    estimate = estimate_plan(MODEL, CLUSTER, TRAINING, other)
    rival = ComparedPlan(name="data parallelism alone", plan=other, estimate=estimate)
    text = _line(_summary(plan, rival=rival), "simpler")
    assert text.startswith(f"{other.mesh}, ZeRO-3 (data parallelism alone): ")
    refused = ComparedPlan(name="none", reason="it does not fit the memory")
    assert _line(_summary(plan, rival=refused), "simpler") == "none: it does not fit the memory"
    assert _line(_summary(plan), "simpler").startswith("none; ")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1.0, "as fast"),
        (1.0004, "as fast"),
        (1.062, "6.2% slower"),
        (0.98, "2.0% faster"),
        (2.5, "2.50 times as long"),
        (14.55, "14.6 times as long"),
    ],
)
def test_ratios_in_words(ratio: float, words: str) -> None:
    assert slower(ratio) == words


def test_the_search_says_its_gap_and_whether_time_ended_it() -> None:
    plan = _plan("ddp")
    assert _line(_summary(plan), "search") == "1,234 combinations; no plan is faster by this cost model"
    ended = _line(replace(_summary(plan), gap=0.0312, complete=False), "search")
    assert "no plan is more than 3.12% faster" in ended
    assert ended.endswith("the time limit ended the search")


def test_other_software_is_named() -> None:
    other = TRAINING.model_copy(update={"stack": "xla"})
    assert _line(replace(_summary(_plan("ddp")), training=other), "rests on").endswith("for the stack 'xla'")


def test_active_parameters_are_counted_where_there_are_experts() -> None:
    experts = replace(_summary(_plan("ddp")), model=load_model("mixtral-8x7b"))
    assert "46.7 G parameters, 12.9 G of them active" in " ".join(summary_text(experts).split())
