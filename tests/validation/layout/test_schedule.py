"""Which schedule a row ran, and the layers of its stages by the rule of its software."""

import pytest

from shardwright.costmodel.pipeline_layout import StageLayers
from shardwright.validation.layout.schedule import (
    by_cost,
    pipelines_of_row,
    stage_sizes,
    stated_stages,
    vocabulary_parallel_of,
)
from shardwright.validation.rows.stack import software_of_row
from shardwright.validation.table import SkippedRowError
from tests.validation.made_up_rows import row


def _choices(layers: int = 40, pp: int = 4, **changes: object) -> list[tuple[str, int]]:
    given = row(**changes)
    found = pipelines_of_row(given, software_of_row(given).family, pp, layers)
    return [(choice.schedule, choice.stages_per_rank) for choice in found]


def test_no_pipeline_has_no_schedule_to_choose() -> None:
    assert _choices(pp=1, vpp=4, notes="GPipe") == [("1f1b", 1)]


def test_stated_chunks_interleave() -> None:
    assert _choices(vpp=5) == [("interleaved-1f1b", 5)]
    assert _choices(vpp=1, framework="Megatron-LM") == [("1f1b", 1)]


def test_only_megatron_may_have_interleaved_unsaid() -> None:
    """40 layers on 4 ranks: five stages of two layers, as NeMo's recipes have them. Megatron-LM's default is one stage."""
    assert _choices(framework="Megatron-Core r0.8.0") == [("interleaved-1f1b", 5), ("1f1b", 1)]
    assert _choices(framework="Megatron-LM") == [("1f1b", 1), ("interleaved-1f1b", 5)]
    assert _choices(framework="NeMo", layers=4) == [("1f1b", 1)]
    assert _choices(framework="Megatron-DeepSpeed") == [("1f1b", 1)]
    assert _choices() == [("1f1b", 1)]


def test_the_ends_may_count_as_layers() -> None:
    """126 layers and two ends on 16 ranks: 64 stages of two. Layers that divide by themselves come first: 40 as 4 x 5 x 2."""
    assert _choices(framework="Megatron-Core", layers=126, pp=16) == [("interleaved-1f1b", 4), ("1f1b", 1)]
    assert _choices(framework="Megatron-LM", layers=126, pp=16) == [("1f1b", 1), ("interleaved-1f1b", 4)]
    assert _choices(framework="Megatron-Core", layers=125, pp=16) == [("1f1b", 1)]
    assert _choices(framework="Megatron-Core", layers=38, pp=4) == [("interleaved-1f1b", 5), ("1f1b", 1)]


@pytest.mark.parametrize(
    ("notes", "choices"),
    [
        ("schedule=1F1B; AsyncTP", [("1f1b", 1)]),
        ("GPipe, 4 stages", [("gpipe", 1)]),
        ("schedule=ZBV", [("zb-v", 2)]),
        ("ZB-H1 with offload", [("zb-h1", 1)]),
        *[(name, [("zb-2p", 1)]) for name in ("ZB-2p", "zb2p", "ZB-H2", "zbh2; zero bubble")],
        *[(name, [("v-half", 2)]) for name in ("V-Half", "schedule=vhalf", "vocab-2 with V-Half")],
        *[(name, [("v-min", 2)]) for name in ("V-Min", "vmin")],
        ("zero bubble", [("zb-h1", 1)]),
        ("DualPipe-V", [("dualpipe-v", 2)]),
        ("ZB-1p", [("zb-h1", 1)]),
        ("schedule=Interleaved 1F1B", [("interleaved-1f1b", 5)]),
        ("the interleaved schedule", [("interleaved-1f1b", 5)]),
        ("not interleaved", [("1f1b", 1)]),
    ],
)
def test_a_remark_names_the_schedule(notes: str, choices: list[tuple[str, int]]) -> None:
    assert _choices(notes=notes) == choices


def test_stated_chunks_say_more_than_the_word_1f1b() -> None:
    assert _choices(vpp=2, notes="1F1B") == [("interleaved-1f1b", 2)]


def test_layers_that_do_not_divide_still_have_an_interleaved_schedule_where_it_is_named() -> None:
    assert _choices(layers=39, notes="interleaved 1F1B") == [("interleaved-1f1b", 2)]


def test_even_where_nothing_else_is_known() -> None:
    assert stage_sizes(row(), "torchtitan", 40, 3) == [13, 14, 13]


def test_internevo_leaves_the_rest_to_the_last_stages() -> None:
    assert stage_sizes(row(), "InternEvo", 32, 5) == [6, 6, 6, 7, 7]


def test_nanotron_counts_the_head() -> None:
    """28 layers of 113 million weights and a head of 403 million on 2 stages: the 16th layer crosses the half."""
    one = row(hidden=3072, ffn_hidden=8192, vocab=131072)
    assert stage_sizes(one, "nanotron", 28, 2) == [16, 12]


@pytest.mark.parametrize(
    ("layer_cost", "head_cost", "layers", "stages", "sizes"),
    [
        (1.0, 0.0, 8, 4, [3, 2, 2, 1]),  # a block that only reaches a stage's share does not end it
        (1.0, 1.5, 8, 2, [5, 3]),
    ],
)
def test_the_block_that_crosses_a_share_stays(
    layer_cost: float, head_cost: float, layers: int, stages: int, sizes: list[int]
) -> None:
    assert by_cost(layer_cost, head_cost, layers, stages) == sizes


def test_even_where_the_head_alone_would_fill_a_stage() -> None:
    one = row(hidden=64, ffn_hidden=64, vocab=10**6)
    assert stage_sizes(one, "nanotron", 4, 2) == [2, 2]


@pytest.mark.parametrize(
    ("notes", "kind"),
    [("schedule vocab-1", "vocab-1"), ("Vocab-2 (V-Half later)", "vocab-2"), ("interlaced pipeline", "interlaced")],
)
def test_names_of_pipelines_that_split_the_vocabulary(notes: str, kind: str) -> None:
    assert vocabulary_parallel_of(row(pp=4, dp=16, notes=notes)) == kind
    assert vocabulary_parallel_of(row(pp=1, notes=notes)) == "none"


def test_the_interlaced_pipeline_has_one_stage_on_a_rank() -> None:
    """Megatron-LM may interleave where nothing is said. This name says that it does not."""
    assert len(_choices(framework="Megatron-LM")) == 2
    assert _choices(framework="Megatron-LM", notes="interlaced") == [("1f1b", 1)]


@pytest.mark.parametrize("notes", ["baseline of the vocabulary paper, vocab 128k", "redis", None])
def test_other_pipelines_leave_it_at_the_ends(notes: str | None) -> None:
    assert vocabulary_parallel_of(row(pp=4, dp=16, notes=notes)) == "none"


def test_redistributed_layers_balance_the_head() -> None:
    """A layer of 8 h^2 + 4 h f + 2 s h = 29.4e6 FLOPs a token at h 1024, and a head of 2 h V: 262e6, or 8.9 layers. Of 32
    layers on 4 stages the last takes 2 (10.9 with the head); with 1 another would hold 11. A head of 2.1 layers leaves it 6."""
    large = row(hidden=1024, ffn_hidden=4096, vocab=128_000, seq_len=2048, notes="redis", pp=4)
    assert stage_sizes(large, "Megatron-LM", 32, 4) == [10, 10, 10, 2]
    small = row(hidden=1024, ffn_hidden=4096, vocab=30_000, seq_len=2048, notes="redis", pp=4)
    assert sorted(stage_sizes(small, "Megatron-LM", 32, 4)) == [6, 8, 9, 9]
    assert stage_sizes(small, "Megatron-LM", 32, 4)[-1] == 6


def test_a_layout_gives_the_stages_and_their_layers() -> None:
    layout = "settings", "pipeline_layout=Ett|(ttt|)*2t*3,mL; mtp_layers=1"
    given = row(**dict([layout]))
    assert stated_stages(given, 11, 2) == (*[StageLayers(2, 0)], *[StageLayers(3, 0)] * 2, StageLayers(3, 1))
    assert _choices(layers=11, pp=2, **dict([layout])) == [("interleaved-1f1b", 2)]
    assert _choices(layers=4, pp=2, settings="pipeline_layout=Ettt|tL") == [("1f1b", 1)]
    with pytest.raises(SkippedRowError, match="has 11 t and the job has 12 layers"):
        stated_stages(given, 12, 2)
