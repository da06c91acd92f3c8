"""Which schedule a row ran."""

import pytest

from shardwright.validation.rows.schedule import pipelines_of_row
from tests.validation.made_up_rows import row


def _choices(layers: int = 40, pp: int = 4, **changes: object) -> list[tuple[str, int]]:
    return [(choice.schedule, choice.stages_per_rank) for choice in pipelines_of_row(row(**changes), pp, layers)]


def test_no_pipeline_has_no_schedule_to_choose() -> None:
    assert _choices(pp=1, vpp=4, notes="GPipe") == [("1f1b", 1)]


def test_stated_chunks_interleave() -> None:
    assert _choices(vpp=5) == [("interleaved-1f1b", 5)]
    assert _choices(vpp=1, framework="Megatron-LM") == [("1f1b", 1)]


def test_only_megatron_may_have_interleaved_unsaid() -> None:
    even = [("1f1b", 1), ("interleaved-1f1b", 2), ("interleaved-1f1b", 5), ("interleaved-1f1b", 10)]
    assert _choices(framework="Megatron-Core r0.8.0") == even
    assert _choices(framework="Megatron-DeepSpeed") == [("1f1b", 1)]
    assert _choices() == [("1f1b", 1)]


@pytest.mark.parametrize(
    ("notes", "choices"),
    [
        ("schedule=1F1B; AsyncTP", [("1f1b", 1)]),
        ("GPipe, 4 stages", [("gpipe", 1)]),
        ("schedule=ZBV", [("zb-v", 2)]),
        ("ZB-H1 with offload", [("zb-h1", 1)]),
        ("zero bubble", [("zb-h1", 1)]),
        ("DualPipe-V", [("dualpipe-v", 2)]),
        ("schedule=Interleaved 1F1B", [("interleaved-1f1b", 2), ("interleaved-1f1b", 5), ("interleaved-1f1b", 10)]),
    ],
)
def test_a_remark_names_the_schedule(notes: str, choices: list[tuple[str, int]]) -> None:
    assert _choices(notes=notes) == choices


def test_stated_chunks_say_more_than_the_word_1f1b() -> None:
    assert _choices(vpp=2, notes="1F1B") == [("interleaved-1f1b", 2)]


def test_layers_that_do_not_divide_still_have_an_interleaved_schedule_where_it_is_named() -> None:
    assert _choices(layers=39, notes="interleaved 1F1B") == [("interleaved-1f1b", 2)]
