"""From a table row to the model that was trained.

A row states sizes, not architecture. A public model whose sizes agree is its preset. Otherwise the family of its name
decides what the row leaves out: gated or plain feed-forward, biases, learned positions. Whether embeddings are
tied is read from the row; if it does not say, the choice nearer to the stated parameter count holds. MPT has biases and
learned positions, as llm-foundry's own parameter counts imply: with both, all 216 published rows agree to the last digit.
"""

from typing import NamedTuple

from shardwright.specs.model import Block, BlockRun, FeedForward, MixtureOfExperts, ModelSpec, MultiHeadAttention, Norm

from .preset import preset_of_row
from .table import SkippedRowError, TableRow


class _Family(NamedTuple):
    """What a model's name implies. `tied` is for rows that state neither tying nor a parameter count."""

    name: str
    gated: bool
    bias: bool
    learned_positions: bool
    tied: bool


_LLAMA = _Family("llama", gated=True, bias=False, learned_positions=False, tied=False)
_GPT = _Family("gpt2", gated=False, bias=True, learned_positions=True, tied=True)
_FAMILIES: dict[str, _Family] = {
    "gpt": _GPT,
    "mpt": _Family("mpt", gated=False, bias=True, learned_positions=True, tied=True),
    "opt": _GPT,
    "mt-nlg": _GPT,
    "bloom": _Family("bloom", gated=False, bias=True, learned_positions=False, tied=True),
    "llama": _LLAMA,
    "tinyllama": _LLAMA,
    "internlm": _Family("internlm", gated=True, bias=True, learned_positions=False, tied=False),
    "mistral": _LLAMA,
    "qwen": _LLAMA,
    "yi": _LLAMA,
}
GPT_PADDED_VOCABULARY = 51200  # GPT-2's 50257 tokens, padded by Megatron to a multiple of 128 * tp (8)


def model_of_row(row: TableRow) -> tuple[ModelSpec, list[str]]:
    """The model of `row`, and what was assumed.

    Raises:
        SkippedRowError: a size is unknown and no preset has it.
    """
    name = row.model or row.id
    family, preset = _family_of(name), preset_of_row(row)
    sizes = (row.layers, row.hidden, row.heads, row.moe_ffn or row.ffn_hidden)
    assumptions: list[str] = []
    if preset is not None and (family in (None, _LLAMA) or None in sizes or row.experts):
        if None in (*sizes, row.vocab, row.kv_heads):
            assumptions.append("architecture of the preset of that name")
        return preset, assumptions
    if None in sizes:
        raise SkippedRowError("architecture unknown")
    if family is None:
        family = _LLAMA
        assumptions.append("family unknown: gated feed-forward, no biases")
    vocabulary = row.vocab
    if vocabulary is None and family is _GPT:
        vocabulary = GPT_PADDED_VOCABULARY
        assumptions.append(f"vocabulary of {GPT_PADDED_VOCABULARY} (GPT-2's, padded)")
    if vocabulary is None:
        raise SkippedRowError("vocab unknown")
    if row.kv_heads is None:
        assumptions.append("as many key-value heads as heads")
    model = _build(row, name, family, vocabulary)
    if row.tied_embeddings is None and row.params_b is not None:
        model = _nearest_tying(model, 1e9 * row.params_b)
    return model, assumptions


def _build(row: TableRow, name: str, family: _Family, vocabulary: int) -> ModelSpec:
    layers, hidden, heads = (_known(row, column) for column in ("layers", "hidden", "heads"))
    seq_len = _known(row, "seq_len")
    kv_heads = row.kv_heads or heads
    if hidden % heads or heads % kv_heads:
        raise SkippedRowError("heads do not divide hidden, or kv_heads heads: the head size is unknown")
    norm = Norm(kind="rmsnorm") if family.gated else Norm(kind="layernorm", bias=family.bias)
    attention = MultiHeadAttention(
        heads=heads, kv_heads=kv_heads, head_size=hidden // heads, qkv_bias=family.bias, output_bias=family.bias
    )
    ffn = _feed_forward(row, family)
    return ModelSpec(
        name=name,
        family=family.name,
        hidden_size=hidden,
        vocab_size=vocabulary,
        blocks=(BlockRun(count=layers, block=Block(attention=attention, ffn=ffn, norm=norm)),),
        tied_embeddings=family.tied if row.tied_embeddings is None else row.tied_embeddings,
        positions=seq_len if family.learned_positions else 0,
        final_norm=norm,
    )


def _feed_forward(row: TableRow, family: _Family) -> FeedForward | MixtureOfExperts:
    """The feed-forward of every layer. A row of experts without a preset has no shared experts and no dense layers, because no
    column states them."""
    if row.experts is None:
        width = _known(row, "ffn_hidden")
        return FeedForward(width=width, gated=family.gated, bias=family.bias and not family.gated)
    if row.topk is None or row.topk > row.experts:
        raise SkippedRowError("experts of a token (topk) unknown, or more than there are")
    width = row.moe_ffn or _known(row, "ffn_hidden")
    return MixtureOfExperts(experts=row.experts, top_k=row.topk, expert_width=width, gated=family.gated)


def _known(row: TableRow, column: str) -> int:
    value = getattr(row, column)
    if value is None:
        raise SkippedRowError("architecture unknown" if column != "seq_len" else "seq_len unknown")
    return int(value)


def _family_of(name: str) -> _Family | None:
    folded = name.lower()
    return next((family for prefix, family in _FAMILIES.items() if folded.startswith(prefix)), None)


def _nearest_tying(model: ModelSpec, stated_parameters: float) -> ModelSpec:
    both = (model, model.model_copy(update={"tied_embeddings": not model.tied_embeddings}))
    # model_copy keeps cached properties of the original, so the copies are built anew
    fresh = [ModelSpec.model_validate(spec.model_dump()) for spec in both]
    return min(fresh, key=lambda spec: abs(spec.parameter_count - stated_parameters))
