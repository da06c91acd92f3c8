"""The table of a comparison: cells that are easy to read wrongly."""

import io

import pytest
from rich.console import Console

from shardwright.comparison.strategies import levels_of
from shardwright.reports.plan.comparison import ComparedPlan, Comparison, comparison_table
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster, estimate_plan
from tests.validation.made_up_rows import row


@pytest.mark.parametrize(("factor", "cell"), [(1.0, "0.0%"), (1.25, "25.0%"), (14.55, "x 14.6")])
def test_a_step_of_twice_the_time_and_more_is_a_factor(factor: float, cell: str) -> None:
    model, _ = model_of_row(row())
    training = TrainingSpec(seq_len=4096, global_batch=64)
    plan = levels_of("ddp", model, cluster(4), training)[0][0]
    estimate = estimate_plan(model, cluster(4), training, plan)
    longer = estimate.model_copy(
        update={"step": estimate.step.model_copy(update={name: factor * value for name, value in estimate.step})}
    )
    rows = tuple(ComparedPlan(name=name, plan=plan, estimate=one) for name, one in (("a", estimate), ("b", longer)))
    comparison = Comparison(model_name="m", cluster_name="c", rows=rows)
    shown = io.StringIO()
    Console(file=shown, width=200).print(comparison_table(comparison))
    assert shown.getvalue().rstrip().endswith(cell)
