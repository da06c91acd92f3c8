"""Comparison: every way asked for is a row, those that cannot run with their reason."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from shardwright.base import units as readable
from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.comparison.side_by_side import Searched, SearchPlan, compare
from shardwright.comparison.strategies import levels_of
from shardwright.costmodel.evaluate import estimate_plan as real_estimate
from shardwright.costmodel.evaluate import fastest
from shardwright.reports.plan.comparison import Comparison, comparison_table
from shardwright.reports.plan.tables import plan_table
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.results import Estimate
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster, estimate_plan
from tests.validation.made_up_rows import row

MODEL, _ = model_of_row(row())
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)


def _compare(
    strategies: tuple[str, ...] = (), plans: dict[str, Plan] | None = None, model: ModelSpec = MODEL
) -> Comparison:
    return compare(model, cluster(4), TRAINING, strategies=strategies, plans=plans, estimate=estimate_plan)


def _plan(name: str) -> Plan:
    return levels_of(name, MODEL, cluster(4), TRAINING)[0][0]


def _text(comparison: Comparison) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    return console.export_text()


def test_rows_stand_in_the_order_asked_for() -> None:
    comparison = compare(
        MODEL,
        cluster(4),
        TRAINING,
        strategies=("zero3", "ddp"),
        plans={"mine.json": _plan("tp+dp")},
        searches={"best": lambda *_: _plan("zero3")},
        estimate=estimate_plan,
    )
    assert [row.name for row in comparison.rows] == ["zero3", "ddp", "mine.json", "best"]


def test_what_does_not_fit_is_a_row_with_its_reason_and_its_plan() -> None:
    # 16 bytes for each of 13.0e9 parameters are 208 GB on every device of ddp, 6.5 GB on those of zero3
    ddp, zero3 = _compare(("ddp", "zero3")).rows
    assert ddp.reason is not None
    assert "pipeline rank 0 needs" in ddp.reason
    assert ddp.plan is not None
    assert ddp.step_seconds is None
    assert zero3.reason is None
    assert zero3.step_seconds is not None


def test_a_strategy_takes_the_fastest_micro_batch() -> None:
    (zero3,) = _compare(("zero3",)).rows
    assert zero3.plan is not None
    assert zero3.plan.micro_batch == 1  # each further sequence costs 10% with the fake


def test_a_strategy_recomputes_no_more_than_it_must() -> None:
    (zero3,) = _compare(("zero3",)).rows
    assert zero3.plan is not None
    assert zero3.plan.stages[0].layers[0].recompute == "none"
    big, _ = model_of_row(
        row(layers=472)
    )  # 16 * 150.0e9 / 32 bytes: 75.0 of 75.2 GB usable, no room for a 1 GB sequence
    (pressed,) = _compare(("zero3",), model=big).rows
    assert pressed.plan is not None
    assert pressed.plan.stages[0].layers[0].recompute == "full"
    assert pressed.reason is None


def test_the_fastest_is_among_those_that_can_run() -> None:
    comparison = _compare(("ddp", "zero3", "megatron"))
    assert comparison.fastest is not None
    times = [row.step_seconds for row in comparison.rows if row.step_seconds is not None]
    assert comparison.fastest.step_seconds == min(times)
    assert comparison.fastest.name != "ddp"


def test_nothing_that_fits_has_no_fastest() -> None:
    comparison = _compare(("ddp",))
    assert comparison.fastest is None
    assert "ddp: pipeline rank 0 needs" in _text(comparison)


def test_a_plan_for_another_model_is_a_row_with_its_reason() -> None:
    other, _ = model_of_row(row(layers=20))
    (mine,) = _compare(plans={"mine.json": _plan("zero3")}, model=other).rows
    assert mine.reason == "the plan holds 40 layers and the model 20"


def test_a_batch_that_does_not_divide_is_a_reason() -> None:
    comparison = compare(
        MODEL, cluster(4), TrainingSpec(seq_len=4096, global_batch=48), strategies=("ddp",), estimate=estimate_plan
    )
    assert comparison.rows[0].reason is not None
    assert "does not divide" in comparison.rows[0].reason


def test_a_search_that_finds_nothing_is_a_reason() -> None:
    def search(*_: object) -> Plan:
        raise InfeasibleError("nothing fits; the nearest is 3 GiB over")

    comparison = compare(MODEL, cluster(4), TRAINING, strategies=(), searches={"best": search}, estimate=estimate_plan)
    assert [(row.name, row.reason) for row in comparison.rows] == [("best", "nothing fits; the nearest is 3 GiB over")]


def test_an_unknown_strategy_is_a_mistake_and_no_row() -> None:
    with pytest.raises(SpecError, match=r"unknown strategy 'megatrom'.*Did you mean 'megatron'"):
        _compare(("megatrom",))


def test_json_round_trips() -> None:
    comparison = _compare(("ddp", "zero3"))
    assert Comparison.model_validate(json.loads(json.dumps(comparison.to_json(), allow_nan=False))) == comparison


def test_the_table_shows_times_for_what_fits_and_reasons_for_the_rest() -> None:
    comparison = _compare(("ddp", "zero3"))
    text = _text(comparison)
    (zero3,) = [row for row in comparison.rows if row.name == "zero3"]
    assert zero3.estimate is not None
    assert f"{zero3.estimate.tokens_per_s:,.0f}" in text
    assert "dp_shard32" in text
    assert "ddp: pipeline rank 0 needs" in text


def test_numbers_are_whole_in_eighty_columns() -> None:
    comparison = _compare(("zero3", "megatron"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    text = console.export_text()
    for compared in comparison.rows:
        assert compared.estimate is not None
        for number in (
            readable.seconds(compared.estimate.step_seconds),
            readable.size(compared.estimate.peak_memory_bytes),
        ):
            assert number in text


def test_names_are_no_markup() -> None:
    assert "[bold]mine[/bold]" in _text(_compare(plans={"[bold]mine[/bold]": _plan("zero3")}))


def test_a_plan_and_its_estimate_as_a_table() -> None:
    plan = _plan("megatron")
    estimate = estimate_plan(MODEL, cluster(4), TRAINING, plan)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(plan_table(plan, estimate))
    text = console.export_text()
    assert "dp_shard4 x tp8 (32 ranks)" in text
    assert "optimizer state sharded (ZeRO-1) over 4 ranks" in text
    assert f"{100 * estimate.mfu:.1f}%" in text


def test_on_a_mixed_cluster_strategies_also_have_a_row_for_each_group() -> None:
    """Sharding over all devices would lie over both groups; in each alone it fits. The best plan has the devices that it is for."""
    model, mixed = load_model("llama-3.2-1b"), load_cluster("h100-sxm:8+a100-sxm-80gb:8")

    def best(*job: object) -> Searched:
        del job
        alone = mixed.alone(1)
        return Searched(levels_of("zero3", model, alone, TRAINING)[0][0], alone)

    comparison = compare(model, mixed, TRAINING, strategies=("zero3",), searches={"best": best})
    whole, fast, slow, found = comparison.rows
    assert whole.reason is not None
    assert "devices of two groups" in whole.reason
    assert (fast.name, slow.name) == ("zero3 on 8 h100-sxm", "zero3 on 8 a100-sxm-80gb")
    assert fast.step_seconds is not None
    assert slow.step_seconds is not None
    assert fast.step_seconds < slow.step_seconds
    assert found.cluster == mixed.alone(1)
    assert "cluster" not in comparison.to_json()["rows"][0]


def test_equal_groups_have_one_row() -> None:
    node = load_cluster("h100-sxm:8").groups[0]
    islands = ClusterSpec(name="islands", groups=(node, node), between=node.nic)
    comparison = compare(load_model("llama-3.2-1b"), islands, TRAINING, strategies=("ddp",))
    assert [row.name for row in comparison.rows] == ["ddp", "ddp on 8 h100-sxm"]


@pytest.mark.parametrize("devices", ["h100-sxm:8", "h100-sxm:64", "a100-sxm-80gb:16"])
@pytest.mark.parametrize("name", ["zero1", "zero3", "zero3-offload", "tp+dp", "megatron"])
def test_what_is_left_out_as_too_large_changes_nothing(name: str, devices: str) -> None:
    """Against every plan of every level, estimated."""
    model, somewhere = load_model("llama-3.1-8b"), load_cluster(devices)
    training = TrainingSpec(seq_len=8192, global_batch=64)
    (row,) = compare(model, somewhere, training, strategies=(name,)).rows
    best = [
        fastest(model, somewhere, training, level, real_estimate)
        for level in levels_of(name, model, somewhere, training)
    ]
    fitting = next((found for found in best if found.too_large is None), None)
    wanted = fitting or min(best, key=lambda found: found.estimate.peak_memory_bytes)
    assert row.plan == wanted.plan
    assert row.reason == wanted.too_large
    assert (row.lacking_bytes > 0) == (wanted.too_large is not None)


def test_much_is_left_out() -> None:
    """Control of the test above: the short way does estimate fewer plans."""
    counted: list[Plan] = []

    def counting(*job: Any) -> Estimate:
        counted.append(job[-1])
        return real_estimate(*job)

    model, somewhere = load_model("llama-3.1-8b"), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=8192, global_batch=64)
    compare(model, somewhere, training, strategies=("ddp",), estimate=counting)
    assert len(counted) < sum(map(len, levels_of("ddp", model, somewhere, training)))


def test_what_a_search_chose_of_the_training_is_said_and_estimated() -> None:
    """A loss in pieces keeps fewer logits; the rows of the strategies and of the comparison keep the training as given."""
    chosen = TRAINING.model_copy(update={"loss_chunks": 4})
    plan = _plan("zero3")
    searches: dict[str, SearchPlan] = {"given": lambda *_: plan, "chosen": lambda *_: Searched(plan, training=chosen)}
    given, other = compare(MODEL, cluster(4), TRAINING, strategies=(), searches=searches).rows
    assert (given.trained, given.training) == ((), None)
    assert (other.trained, other.training) == (("the loss in 4 pieces",), chosen)
    assert other.estimate == real_estimate(MODEL, cluster(4), chosen, plan) != given.estimate
