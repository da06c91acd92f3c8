"""The preset of a row's model, for rows that leave out sizes of a public architecture."""

import re
from functools import cache

from shardwright.catalog.huggingface import load_model, preset_names
from shardwright.specs.model import FeedForward, MixtureOfExperts, ModelSpec
from shardwright.validation.table import TableRow

from .families import folded_name
from .sizes import model_name

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bm])")
_UNITS = {"b": 1e9, "m": 1e6}
_SIZE_TOLERANCE = 0.1  # names round parameter counts
# Common names of models that the presets name differently, and public models with the same sizes.
_ALIASES = {
    "gpt2": "gpt2-124m",
    "gpt2small": "gpt2-124m",
    "gpt2medium": "gpt2-355m",
    "gpt2large": "gpt2-774m",
    "gpt2xl": "gpt2-1.5b",
    "gpt3medium": "gpt3-350m",
    "gpt3355m": "gpt3-350m",
    "gpt125m": "gpt3-125m",
    "gpt350m": "gpt3-350m",
    "gpt760m": "gpt3-760m",
    "gpt1.3b": "gpt3-1.3b",
    "gpt2.7b": "gpt3-2.7b",
    "gpt6.7b": "gpt3-6.7b",
    "gpt13b": "gpt3-13b",
    "gpt175b": "gpt3-175b",
    "gpt530b": "mt-nlg-530b",
    "llama3405b": "llama-3.1-405b",
    "codellama7b": "llama-2-7b",
    "codellama13b": "llama-2-13b",
    "codellama70b": "llama-2-70b",
    "mistral7bv0.1": "mistral-7b",
    "mistral7bv0.2": "mistral-7b",
    "zephyr7b": "mistral-7b",
    "qwen20.5b": "qwen2.5-0.5b",
    "qwen21.5b": "qwen2.5-1.5b",
    "qwen2.5coder1.5b": "qwen2.5-1.5b",
    "qwen2.5coder7b": "qwen2.5-7b",
    "qwen2.5coder14b": "qwen2.5-14b",
    "qwen2.5coder32b": "qwen2.5-32b",
    "qwen2.5math1.5b": "qwen2.5-1.5b",
    "qwen2.5math7b": "qwen2.5-7b",
    "qwen2.5math72b": "qwen2.5-72b",
    "qwq32b": "qwen2.5-32b",
    "deepseekr1": "deepseek-v3",
    "deepseekr1distillqwen1.5b": "qwen2.5-1.5b",
    "deepseekr1distillqwen7b": "qwen2.5-7b",
    "deepseekr1distillqwen14b": "qwen2.5-14b",
    "deepseekr1distillqwen32b": "qwen2.5-32b",
    "deepseekr1distillllama8b": "llama-3.1-8b",
    "deepseekr1distillllama70b": "llama-3.3-70b",
    # what torchtitan calls so has the sizes of DeepSeek-V2 (models/deepseek_v3/__init__.py, deepseekv3_configs)
    "deepseekv316b": "deepseek-v2-lite",
    "deepseekv3236b": "deepseek-v2",
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
    """The one preset whose name lacks the size that the row adds, if it is its size: "DeepSeek V3 671B"."""
    added = ((preset, _SIZE.fullmatch(name.removeprefix(folded))) for folded, preset in _presets().items())
    found = [
        preset
        for preset, size in added
        if size and abs(load_model(preset).parameter_count / (float(size[1]) * _UNITS[size[2]]) - 1) < _SIZE_TOLERANCE
    ]
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
