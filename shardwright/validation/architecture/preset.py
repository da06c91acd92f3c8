"""The preset of a row's model, for rows that leave out sizes of a public architecture."""

import re
from functools import cache

from shardwright.catalog.huggingface import load_model, preset_names
from shardwright.specs.model import FeedForward, MixtureOfExperts, ModelSpec
from shardwright.validation.table import TableRow

from .families import folded_name
from .sizes import model_name

_SIZE = re.compile(r"\d+(?:\.\d+)?[bm]")
# Common names of models that the presets name differently.
_ALIASES = {
    "gpt3medium": "gpt3-350m",
    "gpt3355m": "gpt3-350m",
    "qwen3moe30b": "qwen3-30b-a3b",
    "qwen3moe235b": "qwen3-235b-a22b",
    "mixtral8x7bmoe": "mixtral-8x7b",
}


def preset_of_row(row: TableRow) -> ModelSpec | None:
    """The preset with the row's name, if no size in the row contradicts it.

    Spelling is forgiving: "Llama3 70B", "LLAMA3-70B" and "Llama 3 70B (pretraining)" are llama-3-70b.
    """
    name = model_name(row)
    preset = _presets().get(name) or _without_size(name)
    if preset is None:
        return None
    model = load_model(preset)
    return model if _agrees(row, model) else None


def _without_size(name: str) -> str | None:
    """The one preset whose name lacks the size that the row adds: "DeepSeek V3 671B"."""
    found = [preset for folded, preset in _presets().items() if _SIZE.fullmatch(name.removeprefix(folded))]
    return found[0] if len(found) == 1 else None


@cache
def _presets() -> dict[str, str]:
    return {folded_name(name): name for name in preset_names()} | _ALIASES


def _agrees(row: TableRow, model: ModelSpec) -> bool:
    """Whether every size in the row is the model's; with several kinds of layer, any of them may match."""
    blocks = [run.block for run in model.blocks]
    stated: list[tuple[int | None, set[int]]] = [
        (row.layers, {model.layer_count}),
        (row.hidden, {model.hidden_size}),
        (row.heads, {block.attention.heads for block in blocks}),
        (row.kv_heads, {block.attention.kv_heads for block in blocks}),
        (row.vocab, {model.vocab_size}),
    ]
    experts = [block.ffn for block in blocks if isinstance(block.ffn, MixtureOfExperts)]
    dense = {block.ffn.width for block in blocks if isinstance(block.ffn, FeedForward)}
    if experts:  # the feed-forward's width in such rows may be an expert's or a dense layer's
        widths = dense | {ffn.expert_width for ffn in experts}
        stated += [
            (row.experts, {ffn.experts for ffn in experts}),
            (row.moe_ffn, widths),
            (row.topk, {e.top_k for e in experts}),
        ]
    else:
        stated += [(row.ffn_hidden, dense), (row.experts, set())]
    sizes_agree = all(size is None or size in known for size, known in stated)
    return sizes_agree and row.tied_embeddings in (None, model.tied_embeddings) and _near(row.params_b, model)


def _near(stated_billions: float | None, model: ModelSpec) -> bool:
    """Whether two parameter counts agree within a third, because names round them (Gemma-2B has 2.5e9)."""
    return stated_billions is None or abs(model.parameter_count / (1e9 * stated_billions) - 1) < 0.33
