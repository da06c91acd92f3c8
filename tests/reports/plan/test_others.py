"""Other plans beside the chosen one: in a line, as cells and on the page."""

from pathlib import Path

from shardwright.reports.plan.report import Report, write_report

from shardwright.compare.strategies import levels_of
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


def test_json_and_page(tmp_path: Path) -> None:
    (plain,) = others_json((OTHER,), MINE)
    assert plain["names"] == ["fastest", "simplest within 10%"]
    assert plain["free_bytes"] == 3 * 2**30
    assert abs(plain["change"] + 0.1) < 1e-9
    page = tmp_path / "page.html"
    write_report(
        page,
        Report(model=MODEL, cluster=CLUSTER, training=TRAINING, plan=_plan("zero3"), estimate=MINE, others=[OTHER]),
    )
    text = page.read_text(encoding="utf-8")
    assert all(cell in text for cell in other_cells(OTHER, MINE))
