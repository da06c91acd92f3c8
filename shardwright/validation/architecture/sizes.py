"""The sizes of a row's model: those that the row states, and for a public model those that it leaves out."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from shardwright.validation.table import TableRow

from .families import folded_name

_SHARED_EXPERT = re.compile(r"shared expert of (\d+)", re.IGNORECASE)
_EVERY_SECOND = re.compile(r"moe (?:in |on )?every (?:second|other) layer", re.IGNORECASE)
_REMARK = re.compile(r"\([^()]*\)")
# Words that name a tuned version of the same architecture.
_VERSION = re.compile(r"[\s_-](?:instruct|chat|base|it|hf|200k)\b", re.IGNORECASE)
# Who published it, as hubs and people write it before the name.
_PUBLISHER = re.compile(r"^\s*(?:[\w.-]+/|meta[\s_-]+(?=llama))", re.IGNORECASE)


# Common names of the models in public_sizes.toml.
_ALIASES = {
    "nemotron8b": "nemotron38b",
    "nemotron22b": "nemotron322b",
    "nemotron15b": "nemotron415b",
    "nemotron340b": "nemotron4340b",
    "gpt35b": "gpt5b",
    "gpt320b": "gpt20b",
    "llama4maverick400b": "llama4maverick",
    "llama4maverick17b128e": "llama4maverick",
    "llama4maverick17bx128e": "llama4maverick",
    "llama4scout109b": "llama4scout",
    "llama4scout17b16e": "llama4scout",
    "llama4scout17bx16e": "llama4scout",
    "llama33b": "llama30b",
    "vicuna7b": "llama7b",
    "vicuna13b": "llama13b",
    "vicuna33b": "llama30b",
    "alpaca7b": "llama7b",
    "qwen1.51.8b": "qwen1.8b",
    "qwen1.572b": "qwen72b",
    "smollm2135m": "smollm135m",
    "smollm2360m": "smollm360m",
    "smollm21.7b": "smollm1.7b",
    "deepseekllm7b": "deepseek7b",
    "deepseekllm67b": "deepseek67b",
    "turingnlg": "turingnlg17b",
}


class Sizes(NamedTuple):
    """Sizes of one model; None is unknown. `shared`: width of a shared expert, 0 for none. `every`: experts in every n-th
    layer."""

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn_hidden: int | None = None
    moe_ffn: int | None = None
    vocab: int | None = None
    experts: int | None = None
    topk: int | None = None
    shared: int | None = None
    every: int | None = None


def sizes_of_row(row: TableRow) -> tuple[Sizes, bool]:
    """The sizes, and whether some are those of the public model of that name."""
    notes = row.notes or ""
    shared = _SHARED_EXPERT.search(notes)
    stated = Sizes(**{name: getattr(row, name, None) for name in Sizes._fields})._replace(
        shared=int(shared[1]) if shared else None, every=2 if _EVERY_SECOND.search(notes) else None
    )
    name = model_name(row)
    public = _public_models().get(_ALIASES.get(name, name), Sizes())
    if any(one not in (None, other) for one, other in zip(stated, public, strict=True) if other is not None):
        return stated, False  # a namesake of other sizes
    filled = Sizes(*(other if one is None else one for one, other in zip(stated, public, strict=True)))
    return filled, filled != stated


def model_name(row: TableRow) -> str:
    """The folded name of a row's model, without its publisher, remarks and words for a tuned version."""
    return folded_name(_VERSION.sub(" ", _REMARK.sub(" ", without_publisher(row.model or ""))))


def without_publisher(name: str) -> str:
    """`name` without who published it: "Llama-3-8B" of "meta-llama/Meta-Llama-3-8B"."""
    return _PUBLISHER.sub("", _PUBLISHER.sub("", name))


@cache
def _public_models() -> dict[str, Sizes]:
    text = (files(__package__) / "public_sizes.toml").read_text(encoding="utf-8")
    return {folded_name(name): Sizes(**entry) for name, entry in tomllib.loads(text).items()}
