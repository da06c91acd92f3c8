"""From a table row to the model that was trained.

A row states sizes, not architecture. A public model whose sizes agree is its preset. Otherwise the family of its name
decides what the row leaves out: gated or plain feed-forward, biases, learned positions. What remains open is whatever
comes nearest to the stated parameter count: a gate where the family is unknown, whether embeddings are tied, whether
every layer or every second one has experts. MPT has biases and learned positions, as llm-foundry's own parameter counts
imply: with both, all 216 published rows agree to the last digit.
"""

import itertools
from typing import NamedTuple

from shardwright.specs.model import Block, BlockRun, FeedForward, MixtureOfExperts, ModelSpec, MultiHeadAttention, Norm
from shardwright.validation.table import SkippedRowError, TableRow

from .families import GPT_PADDED_VOCABULARY, LLAMA, Family, family_of
from .preset import preset_of_row
from .sizes import Sizes, sizes_of_row, without_publisher


class _Shape(NamedTuple):
    """What the row and its family may leave open."""

    gated: bool
    tied: bool
    experts_every: int


def model_of_row(row: TableRow) -> tuple[ModelSpec, list[str]]:
    """The model of `row`, and what was assumed.

    Raises:
        SkippedRowError: a size is unknown and no public model of that name has it.
    """
    family, preset = family_of(without_publisher(row.model or row.id)), preset_of_row(row)
    lacks = None in (row.layers, row.hidden, row.heads, row.moe_ffn or row.ffn_hidden)
    if preset is not None and (family is None or family.name == LLAMA.name or lacks or row.experts):
        omitted = lacks or None in (row.vocab, row.kv_heads)
        return _with_positions(preset, row, ["architecture of the preset of that name"] if omitted else [])
    sizes, public = sizes_of_row(row)
    needed = (sizes.hidden, sizes.heads, sizes.moe_ffn or sizes.ffn_hidden, sizes.layers or row.params_b)
    if None in needed:
        raise SkippedRowError("architecture unknown")
    assumptions = ["architecture of the public model of that name"] if public else []
    sizes, said = _with_vocabulary(sizes, family)
    assumptions += said
    if sizes.kv_heads is None and not public:
        assumptions.append("as many key-value heads as heads")
    if sizes.layers is None:
        assumptions.append("layers from the parameter count")
    shapes = _shapes(row, sizes, family, public=public)
    models = [_build(row, sizes, family or LLAMA, shape) for shape in shapes]
    chosen = 0
    if row.params_b is not None:
        stated = 1e9 * row.params_b
        chosen = min(range(len(models)), key=lambda index: abs(models[index].parameter_count - stated))
    return models[chosen], assumptions + _said(row, family, sizes, shapes[chosen])


def _with_positions(preset: ModelSpec, row: TableRow, assumptions: list[str]) -> tuple[ModelSpec, list[str]]:
    """A run at a greater length than the preset's learned positions had as many positions."""
    if not preset.positions or (row.seq_len or 0) <= preset.positions:
        return preset, assumptions
    return preset.model_copy(update={"positions": row.seq_len}), [
        *assumptions,
        "learned positions for the row's length",
    ]


def _with_vocabulary(sizes: Sizes, family: Family | None) -> tuple[Sizes, list[str]]:
    known = (family or LLAMA).vocabulary
    if sizes.vocab is not None:
        return sizes, []
    if known is None:
        raise SkippedRowError("vocab unknown")
    whose = "GPT-2's, padded" if known == GPT_PADDED_VOCABULARY else "its family's"
    return sizes._replace(vocab=known), [f"vocabulary of {known} ({whose})"]


def _shapes(row: TableRow, sizes: Sizes, family: Family | None, *, public: bool) -> list[_Shape]:
    """Every shape that the row may mean, the likeliest first; one if it states no parameter count or is a public model, whose
    name rounds its count."""
    known, counted = family or LLAMA, row.params_b is not None and not public
    tied = [known.tied if row.tied_embeddings is None else row.tied_embeddings]
    gated, every = [known.gated], [sizes.every or 1]
    if counted and row.tied_embeddings is None:
        tied.append(not tied[0])
    if counted and family is None:
        gated.append(not known.gated)
    if counted and sizes.experts and sizes.every is None and sizes.ffn_hidden is not None:
        every.append(2)
    return [_Shape(*shape) for shape in itertools.product(gated, tied, every)]


def _said(row: TableRow, family: Family | None, sizes: Sizes, shape: _Shape) -> list[str]:
    said = []
    if family is None and row.params_b is None:
        said.append("family unknown: gated feed-forward, no biases")
    elif family is None:
        kind = "gated" if shape.gated else "plain"
        said.append(f"family unknown: {kind} feed-forward, which comes nearest to the parameter count; no biases")
    if sizes.every is None and shape.experts_every > 1:
        said.append("experts in every second layer, which comes nearest to the parameter count")
    return said


def _build(row: TableRow, sizes: Sizes, family: Family, shape: _Shape) -> ModelSpec:
    if sizes.layers is not None:
        return _built(row, sizes, family, shape, sizes.layers)
    one, two = (_built(row, sizes, family, shape, layers).parameter_count for layers in (1, 2))
    assert row.params_b is not None, "layers come from the parameter count"
    layers = round(1 + (1e9 * row.params_b - one) / (two - one))
    if layers < 1:
        raise SkippedRowError("the parameter count leaves no layer beside the embedding")
    return _built(row, sizes, family, shape, layers)


def _built(row: TableRow, sizes: Sizes, family: Family, shape: _Shape, layers: int) -> ModelSpec:
    hidden, heads, vocabulary = sizes.hidden or 0, sizes.heads or 1, sizes.vocab or 0
    kv_heads = sizes.kv_heads or heads
    if hidden % heads or heads % kv_heads:
        raise SkippedRowError("heads do not divide hidden, or kv_heads heads: the head size is unknown")
    if family.learned_positions and row.seq_len is None:
        raise SkippedRowError("seq_len unknown")
    norm = Norm(kind="rmsnorm") if shape.gated else Norm(kind="layernorm", bias=family.bias)
    attention = MultiHeadAttention(
        heads=heads, kv_heads=kv_heads, head_size=hidden // heads, qkv_bias=family.bias, output_bias=family.bias
    )
    return ModelSpec(
        name=row.model or row.id,
        family=family.name,
        hidden_size=hidden,
        vocab_size=vocabulary,
        blocks=tuple(
            BlockRun(count=count, block=Block(attention=attention, ffn=ffn, norm=norm))
            for count, ffn in _feed_forwards(sizes, family, shape, layers)
        ),
        tied_embeddings=shape.tied,
        positions=row.seq_len or 0 if family.learned_positions else 0,
        final_norm=norm,
    )


def _feed_forwards(
    sizes: Sizes, family: Family, shape: _Shape, layers: int
) -> list[tuple[int, FeedForward | MixtureOfExperts]]:
    """Counts of neighbouring layers, and their feed-forward."""
    width = sizes.ffn_hidden or sizes.moe_ffn or 0
    dense = FeedForward(width=width, gated=shape.gated, bias=family.bias and not shape.gated)
    if sizes.experts is None:
        return [(layers, dense)]
    if sizes.topk is None or sizes.topk > sizes.experts:
        raise SkippedRowError("experts of a token (topk) unknown, or more than there are")
    experts = MixtureOfExperts(
        experts=sizes.experts,
        top_k=sizes.topk,
        expert_width=sizes.moe_ffn or width,
        shared_width=sizes.shared or 0,
        gated=shape.gated,
    )
    if shape.experts_every == 1:
        return [(layers, experts)]
    return [(1, experts if layer % shape.experts_every else dense) for layer in range(layers)]
