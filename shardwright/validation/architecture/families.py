"""What the name of a model implies that no column of a table states."""

import re
from typing import NamedTuple


class Family(NamedTuple):
    """What a model's name implies.

    `gated`: whether the feed-forward has a gate. `tied`: for rows that state neither tying nor a parameter count.
    `vocabulary`: for rows that state none; None where the members of the family differ.
    """

    name: str
    gated: bool
    bias: bool = False
    learned_positions: bool = False
    tied: bool = False
    vocabulary: int | None = None


LLAMA = Family("llama", gated=True)
GPT_PADDED_VOCABULARY = 51200  # GPT-2's 50257 tokens, padded by Megatron to a multiple of 128 * tp (8)
GPT = Family("gpt2", gated=False, bias=True, learned_positions=True, tied=True, vocabulary=GPT_PADDED_VOCABULARY)

# The longest prefix of the folded name counts. Vocabularies are those of the published configurations.
_FAMILIES: dict[str, Family] = {
    "gpt": GPT,
    "gptneox": Family("gpt_neox", gated=False, bias=True, vocabulary=50432),
    "gptj": Family("gpt_neox", gated=False, bias=True, vocabulary=50400),
    "pythia": Family("gpt_neox", gated=False, bias=True, vocabulary=50304),
    "mpt": Family("mpt", gated=False, bias=True, learned_positions=True, tied=True, vocabulary=50368),
    "opt": GPT._replace(vocabulary=50272),
    "mtnlg": GPT,
    "santacoder": GPT._replace(vocabulary=49280),
    "starcoder": GPT._replace(vocabulary=49152),
    "starcoder2": Family("gpt_neox", gated=False, bias=True, tied=True, vocabulary=49152),
    "turingnlg": GPT,
    "smollm": LLAMA._replace(tied=True, vocabulary=49152),
    "olmo": LLAMA._replace(vocabulary=50304),
    "olmo2": LLAMA._replace(vocabulary=100352),
    "codellama": LLAMA._replace(vocabulary=32016),
    "vicuna": LLAMA._replace(vocabulary=32000),
    "alpaca": LLAMA._replace(vocabulary=32000),
    "bloom": Family("bloom", gated=False, bias=True, tied=True, vocabulary=250880),
    "falcon": Family("falcon", gated=False, tied=True, vocabulary=65024),
    "gemma": Family("gemma", gated=True, tied=True, vocabulary=256000),
    # squared ReLU, no biases, an untied head (Parmar et al. 2024, arXiv 2402.16819, section 2.1)
    "nemotron": Family("nemotron", gated=False, vocabulary=256000),
    "grok": LLAMA._replace(vocabulary=131072),
    "llama": LLAMA._replace(vocabulary=32000),
    "llama3": LLAMA._replace(vocabulary=128256),
    "llama4": LLAMA._replace(vocabulary=202048),
    "tinyllama": LLAMA._replace(vocabulary=32000),
    "internlm": Family("internlm", gated=True, bias=True, vocabulary=103168),
    "internlm2": LLAMA._replace(vocabulary=92544),
    "mistral": LLAMA._replace(vocabulary=32000),
    "mixtral": LLAMA._replace(vocabulary=32000),
    "qwen": LLAMA._replace(vocabulary=151936),
    "yi": LLAMA._replace(vocabulary=64000),
    "deepseek": LLAMA._replace(vocabulary=129280),
}


def family_of(name: str) -> Family | None:
    """The family whose name the model's begins with; None if there is none."""
    folded = folded_name(name)
    known = [prefix for prefix in _FAMILIES if folded.startswith(prefix)]
    return _FAMILIES[max(known, key=len)] if known else None


def folded_name(name: str) -> str:
    """`name` in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.lower())
