"""Other plans beside the chosen one: in a line, as cells and for a program."""

from shardwright.comparison.strategies import levels_of
from shardwright.reports.plan.others import OtherPlan, other_cells, other_line, others_json
from shardwright.reports.plan.summary import Summary, summary_text
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec
from shardwright.validation.architecture.model import model_of_row
from tests.validation.fake_costs import cluster, estimate_plan
from tests.validation.made_up_rows import row

MODEL, _ = model_of_row(row())
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
CLUSTER = cluster(4)


def _plan(name: str) -> Plan:
    return levels_of(name, MODEL, CLUSTER, TRAINING)[0][0]


MINE = estimate_plan(MODEL, CLUSTER, TRAINING, _plan("zero3"))
FASTER = MINE.model_copy(
    update={"step": MINE.step.model_copy(update={"compute": MINE.step.compute - 0.1 * MINE.step_seconds})}
)
OTHER = OtherPlan(("fastest", "simplest within 10%"), _plan("ddp"), FASTER, 3 * 2**30)


def test_a_line_says_step_change_and_free_memory() -> None:
    line = other_line(OTHER, _plan("zero3"), MINE)
    assert line.startswith(f"fastest and simplest within 10%: {OTHER.plan.mesh}: ")
    assert line.endswith(" (-10.0%), 3.00 GiB free")


def test_a_line_says_all_choices_where_the_meshes_are_equal() -> None:
    assert "micro batch" in other_line(OTHER, OTHER.plan, MINE)


def test_the_short_form_has_a_line_for_each() -> None:
    summary = Summary(
        model=MODEL, cluster=CLUSTER, training=TRAINING, plan=_plan("zero3"), estimate=MINE, rival=None, candidates=1,
        gap=0.0, complete=True, others=(OTHER, OTHER),
    )  # fmt: skip
    lines = summary_text(summary).splitlines()
    assert sum(line.startswith("or        fastest and simplest") for line in lines) == 2
    assert max(map(len, lines)) <= 80


def test_json_has_names_change_and_free_bytes() -> None:
    (plain,) = others_json((OTHER,), MINE)
    assert plain["names"] == ["fastest", "simplest within 10%"]
    assert plain["free_bytes"] == 3 * 2**30
    assert abs(plain["change"] + 0.1) < 1e-9


def test_cells_are_in_the_order_of_the_columns() -> None:
    cells = other_cells(OTHER, MINE)
    assert cells[0] == OTHER.title
    assert cells[3:] == ["-10.0%", "3.00 GiB"]
