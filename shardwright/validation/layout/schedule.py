"""The pipeline of a row: its schedule, read from chunks and remarks as no column states it, and the layers of its stages."""

import re
from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel import StageLayers, read_layout
from shardwright.specs import ScheduleName, VocabularyParallel, even_stages
from shardwright.validation.table import SkippedRowError, TableRow

_MAY_INTERLEAVE = ("Megatron-LM", "Megatron-Core", "NeMo")
# Every dense recipe of NeMo with a pipeline interleaves, with one to four layers a stage (scripts/performance,
# recommended_model_configs). Megatron-LM does not by default.
_USUALLY_INTERLEAVE = ("Megatron-Core", "NeMo")
_LAYERS_OF_A_CHUNK = 2
# The embedding and the head may count as a layer each, so that 126 layers make 64 stages of two (Megatron-Core,
# account_for_embedding_in_pipeline_split and account_for_loss_in_pipeline_split; NVIDIA's recipes of Llama 3.1 405B).
_ENDS = 2
# Names in use, specific ones first; each with the schedule's name and its chunks on a rank.
_NAMED: tuple[tuple[str, ScheduleName, int | None], ...] = (
    (r"\bdual ?pipe", "dualpipe-v", 2),
    (r"\bzb-?v\b", "zb-v", 2),
    (r"\bv-?half\b", "v-half", 2),
    (r"\bv-?min\b", "v-min", 2),
    (r"\bzb-?(?:h2|2p|2)\b", "zb-2p", 1),
    (r"\bzb-?(?:h1|1p|1)\b|zero[ -]?bubble", "zb-h1", 1),
    (r"\bg-?pipe\b|\bafab\b|all[ -]forward[ -]all[ -]backward", "gpipe", 1),
    (r"(?<!non-)(?<!not )\binterleav", "interleaved-1f1b", None),
    (r"\b1f1b\b|\binterlaced\b", "1f1b", 1),
)
_SPLIT_VOCABULARY: tuple[tuple[str, VocabularyParallel], ...] = (
    (r"\bvocab-?1\b", "vocab-1"),
    (r"\bvocab-?2\b", "vocab-2"),
    (r"\binterlaced\b", "interlaced"),
)
_BALANCES_LAYERS = re.compile(r"\bredis\b")


class PipelineChoice(NamedTuple):
    """A schedule, and how many stages each rank holds."""

    schedule: ScheduleName
    stages_per_rank: int


def pipelines_of_row(row: TableRow, family: str, pp: int, layers: int) -> tuple[PipelineChoice, ...]:
    """Every schedule that `row` can mean, the likeliest first.

    `vpp` counts stages on a rank. If it is empty and no remark says more, Megatron-LM did not interleave, as is its
    default, and Megatron-Core did, as in its recipes, with two layers a stage where that divides. Both are readings.
    """
    if pp == 1:
        return (PipelineChoice("1f1b", 1),)
    if stages := stated_stages(row, layers, pp):
        each = len(stages) // pp
        return (PipelineChoice("interleaved-1f1b" if each > 1 else "1f1b", each),)
    name, chunks = _stated(row)
    counts = _chunk_counts(row, family, pp, layers)
    if name == "interleaved-1f1b":
        counts = [count for count in counts if count > 1] or [2]
    elif chunks is not None:
        counts = [chunks]
    return tuple(PipelineChoice(_schedule(name, count), count) for count in counts)


def stated_stages(row: TableRow, layers: int, pp: int) -> tuple[StageLayers, ...] | None:
    """The stages of the row's own layout, if it states one.

    Raises:
        SkippedRowError: the layout is not one of its model.
    """
    if row.settings.pipeline_layout is None:
        return None
    try:
        return read_layout(row.settings.pipeline_layout, layers=layers, mtp_layers=row.settings.mtp_layers or 0, pp=pp)
    except SpecError as refusal:
        raise SkippedRowError(str(refusal)) from None


def vocabulary_parallel_of(row: TableRow) -> VocabularyParallel:
    """`Plan.vocabulary_parallel`, by the names of Yeung et al. 2024 (arXiv 2411.05288, section 6)."""
    if (row.pp or 1) == 1:
        return "none"
    return next((kind for pattern, kind in _SPLIT_VOCABULARY if re.search(pattern, _remarks(row))), "none")


def _remarks(row: TableRow) -> str:
    return f"{row.framework or ''}; {row.notes or ''}".lower()


def _stated(row: TableRow) -> tuple[ScheduleName | None, int | None]:
    remarks = _remarks(row)
    found = ((name, chunks) for pattern, name, chunks in _NAMED if re.search(pattern, remarks))
    name, chunks = next(found, (None, None))
    if name == "1f1b" and row.vpp is not None:
        return None, None  # "1F1B" is also said of the interleaved kind
    return name, chunks


def _chunk_counts(row: TableRow, family: str, pp: int, layers: int) -> list[int]:
    if row.vpp is not None:
        return [row.vpp]
    named = _stated(row)[0] == "interleaved-1f1b"
    if not named and family not in _MAY_INTERLEAVE:
        return [1]
    even = _even_counts(layers, pp)
    if not even and family in _MAY_INTERLEAVE:
        even = _even_counts(layers + _ENDS, pp)
    usual = [count for count in even if layers + _ENDS >= pp * count * _LAYERS_OF_A_CHUNK] or even
    return [*usual[-1:], 1] if family in _USUALLY_INTERLEAVE else [1, *usual[-1:]]


def _even_counts(layers: int, pp: int) -> list[int]:
    """The numbers of stages on a rank, from 2 on, that give each stage as many layers."""
    return [count for count in range(2, layers // pp + 1) if layers % (pp * count) == 0]


def _schedule(name: ScheduleName | None, chunks: int) -> ScheduleName:
    if name not in (None, "1f1b", "interleaved-1f1b"):
        return name
    return "interleaved-1f1b" if chunks > 1 else "1f1b"


def stage_sizes(row: TableRow, family: str, layers: int, stages: int) -> list[int]:
    """Layers of each stage, first to last. nanotron splits by compute cost, InternEvo puts the remainder at the end
    (`partition_uniform`), all others split as evenly as possible."""
    costs = (row.hidden, row.ffn_hidden, row.vocab)
    if stages > 1 and None not in costs and _BALANCES_LAYERS.search(_remarks(row)):
        return _balanced(row, layers, stages)
    if family == "InternEvo":
        fewer, extra = divmod(layers, stages)
        return [fewer + (stage >= stages - extra) for stage in range(stages)]
    if family != "nanotron" or stages == 1 or None in costs:
        return even_stages(layers, stages)
    hidden, ffn_width, vocabulary = (value or 0 for value in costs)
    sizes = by_cost(4.0 * hidden**2 + 3.0 * ffn_width * hidden, float(vocabulary * hidden), layers, stages)
    return sizes if all(sizes) else even_stages(layers, stages)


def _balanced(row: TableRow, layers: int, stages: int) -> list[int]:
    """Layers dealt out so that the last stage's FLOPs, the head's included, are nearest to the others' ("redis" in Yeung et al.
    2024, section 6.1). A layer is 8 h^2 of attention, 4 h f of a feed-forward and 2 s h of causal scores; the head 2 h V."""
    hidden, width, vocabulary = (float(value or 0) for value in (row.hidden, row.ffn_hidden, row.vocab))
    layer = 8 * hidden**2 + 4 * hidden * width + 2 * float(row.seq_len or 0) * hidden
    head = 2 * hidden * vocabulary

    def slowest(last: int) -> float:
        others = -(-(layers - last) // (stages - 1))
        return max(others * layer, last * layer + head)

    last = min(range(layers // stages + 1), key=lambda count: (slowest(count), -count))
    return [*even_stages(layers - last, stages - 1), last]


def by_cost(layer_cost: float, head_cost: float, layers: int, stages: int) -> list[int]:
    """Layers of each stage as nanotron deals out blocks (`build_model` in models/base.py).

    A stage takes blocks until its cost is above its share, and keeps the block that crosses. The head counts at the
    end; the embedding does not count. The first stages get one layer more than in an even split.
    """
    total = layers * layer_cost + head_cost
    sizes, stage = [0] * stages, 0
    for layer in range(1, layers + 1):
        sizes[stage] += 1
        if stage < stages - 1 and layer * layer_cost > total * (stage + 1) / stages:
            stage += 1
    return sizes
