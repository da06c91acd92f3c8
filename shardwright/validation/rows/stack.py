"""The software of a row: its family, by which tables group rows, and its named stack in the cost model."""

import re
from typing import NamedTuple

from shardwright.specs import OWN_STACK
from shardwright.validation.table import TableRow

ZERO3 = "DeepSpeed ZeRO-3"
# Hugging Face Trainer by the names of what drives it.
HF_TRAINERS = (
    r"transformers|hugging|\bhf\b|accelerate|\btrl\b|axolotl|llama-?factory|ms-?swift|unsloth"
    r"|llama-?(?:recipes|cookbook)|fast-?chat|lmflow|open-?instruct|alignment-handbook|open-?rlhf|\bverl\b"
)


class _Framework(NamedTuple):
    """`pattern` finds it in the folded framework text. `guess`: the reason for an assumed stack; None if the stack is certain."""

    pattern: str
    family: str
    stack: str
    guess: str | None = None


# The first match counts, so specific ones come first.
_FRAMEWORKS = (
    _Framework(r"llm-?foundry|composer|mosaic", "llm-foundry", "fsdp"),
    _Framework(r"torchtitan", "torchtitan", "torchtitan"),
    _Framework(r"automodel", "NeMo AutoModel", "automodel"),
    _Framework(r"nanotron", "nanotron", "nanotron"),
    _Framework(r"internevo|internlm", "InternEvo", "internevo"),
    _Framework(r"paxml|rosetta", "Paxml, MaxText", "paxml"),
    _Framework(r"maxtext|\bjax\b|\bxla\b|t5x|levanter|easylm|\balpa\b", "Paxml, MaxText", "xla"),
    _Framework(r"torchtune", "torchtune", "torchtune"),
    _Framework(r"nemo", "NeMo", "nemo"),
    _Framework(r"megatron-?bridge", "Megatron-Core", "nemo"),
    _Framework(r"mcore|megatron-?core", "Megatron-Core", "megatron-core"),
    _Framework(r"megatron.*deepspeed|deepspeed.*megatron", "Megatron-DeepSpeed", "megatron-deepspeed"),
    _Framework(
        r"gpt-?neox", "Megatron-DeepSpeed", "megatron-deepspeed", "built on Megatron's layers and DeepSpeed's engine"
    ),
    _Framework(r"megatron.*(?:zero-?bubble|vocabulary-parallel)", "Megatron-LM", "megatron-zero-bubble"),
    _Framework(r"megatron", "Megatron-LM", "megatron-lm"),
    _Framework(r"mindspeed|galvatron", "Megatron-LM", "megatron-lm", "built on Megatron"),
    _Framework(rf"(?=.*deepspeed).*(?:{HF_TRAINERS}|xtuner)", "DeepSpeed", "hf-deepspeed"),
    _Framework(r"deepspeed", "DeepSpeed", OWN_STACK, "eager PyTorch layers"),
    _Framework(r"flash-?attention", "FlashAttention", "flash-attention"),
    _Framework(r"lightning|fabric|lit-?gpt|tinyllama", "Lightning", "fsdp", "PyTorch FSDP with fused layers"),
    _Framework(r"colossal", "Colossal-AI", "megatron-lm", "Megatron's fused layers"),
    _Framework(r"shardwright", "shardwright", OWN_STACK),
    _Framework(rf"{HF_TRAINERS}", "Hugging Face", "hf-trainer"),
    _Framework(r"picotron", "picotron", OWN_STACK, "eager PyTorch layers"),
    _Framework(
        r"nano-?gpt", "nanoGPT", "torchtitan-compiled-loss", "the compiler takes the whole model, with its loss"
    ),
    _Framework(r"fsdp|pytorch|torch", "PyTorch", "fsdp", "PyTorch FSDP with fused layers"),
)
# Megatron-LM moved onto Megatron-Core with release 0.3 of late 2023, and overlaps communication since 0.5 of early 2024.
_FIRST_YEAR_OF_CORE = 2024
# NeMo took Megatron-Core over during 2023.
_FIRST_YEAR_OF_NEMO_ON_CORE = 2023
# Its recipes for performance have Transformer Engine's kernel for the loss since release 25.04, after Megatron-Core 0.12.
_LAST_YEAR_OF_COMPILED_LOSS_OF_NEMO = 2024
_LAST_NEMO_WITH_COMPILED_LOSS = (25, 2)
_NEMO_RELEASE = re.compile(r"nemo\D{0,12}(2\d)\.(\d\d)\b", re.IGNORECASE)
# The stack of Megatron-Core's releases up to each, by minor version; later ones are the newest.
_CORE_RELEASES = (
    (4, "megatron-core-0.4"),
    (10, "megatron-core-0.8"),
    (12, "megatron-core-0.12"),
    (14, "megatron-core"),
)
_NEWEST_CORE = "megatron-core-0.15"
_CORE_RELEASE = re.compile(r"(?:mcore|megatron-?core)[ _]?[rv]?0\.(\d+)", re.IGNORECASE)
_FAST_KERNELS = re.compile(r"framework_config=\S*(?:foak|fast-kernels|liger)|unsloth", re.IGNORECASE)
# fms-acceleration without its patch leaves bitsandbytes' weights to TRL, which widens the norms unless they are sharded.
_KBIT = re.compile(r"framework_config=baseline-peft-bnb", re.IGNORECASE)
# FlashAttention-2 is of July 2023; the benchmarks of that year ran its predecessors.
_LAST_YEAR_OF_FIRST_KERNELS = 2023
# DeepSpeed 0.6 of early 2022 gathers the parameters of a submodule together, ahead of their use (its pull request 1453).
_LAST_YEAR_OF_SINGLE_GATHERS = 2021
# What remarks call a run without the compiler, removed before they are asked for it.
_NOT_COMPILED = re.compile(r"\b(?:no[- ]?compil\w*|not compiled|without (?:torch\.)?compil\w*|\w*nocompile\w*)")
# torchtitan's docs/float8.md calls the compiler "required for competitive performance" in fp8; its tables do not name it there.
_IN_FP8 = re.compile(r"fp8|float8", re.IGNORECASE)
# torchtitan compiles the loss with the layers since early 2025.
_FIRST_YEAR_OF_COMPILED_LOSS = 2025


class Software(NamedTuple):
    """The software of one run.

    `family`: the framework without its version; "DeepSpeed ZeRO-3" under any driver, because it sets the speed.
    `stack`: its name in `specs/stacks.toml`. `assumptions`: what was assumed to choose the stack.
    """

    family: str
    stack: str
    assumptions: tuple[str, ...] = ()


def software_of_row(row: TableRow) -> Software:
    """The software of `row`; an unknown framework is its own family. Never refuses."""
    text = (row.framework or "").lower()
    if _is_zero3(row, text):
        early = row.year is not None and row.year <= _LAST_YEAR_OF_SINGLE_GATHERS
        return Software(ZERO3, row.stack or ("deepspeed-zero3" if early else "hf-deepspeed"))
    found = next((framework for framework in _FRAMEWORKS if re.search(framework.pattern, text)), None)
    if found is None:
        return _unknown(row)
    if row.stack is not None:
        return Software(found.family, row.stack)
    return Software(found.family, _stack(row, found), (f"{found.family}: {found.guess}",) if found.guess else ())


def _unknown(row: TableRow) -> Software:
    """Software of no known name: like Megatron where tensors and a pipeline split the model, as FSDP does neither."""
    family = row.framework or "unknown"
    if row.stack is not None:
        return Software(family, row.stack)
    named = f"framework '{row.framework}'" if row.framework else "framework unknown"
    if (row.tp or 1) > 1 and (row.pp or 1) > 1:
        recent = row.year is not None and row.year >= _FIRST_YEAR_OF_CORE
        return Software(family, "megatron-core" if recent else "megatron-lm", (f"{named}: like Megatron",))
    return Software(family, "fsdp", (f"{named}: PyTorch FSDP with fused layers",))


def _is_zero3(row: TableRow, framework: str) -> bool:
    """Whether DeepSpeed shards the parameters."""
    stated = re.sub(r"[\W_]", "", (row.zero_or_fsdp or "").lower()).removeprefix("zero")
    return "deepspeed" in framework and (stated.startswith("3") or bool(re.search(r"zero-?\s*3", framework)))


def _stack(row: TableRow, found: _Framework) -> str:
    if found.stack == "internevo" and "fsdp" in (row.zero_or_fsdp or "").lower():
        return "internevo-fsdp"
    if found.stack == "hf-trainer" and _FAST_KERNELS.search(row.notes or ""):
        return "hf-fast-kernels"
    if found.stack == "hf-trainer" and row.gpus == 1 and _KBIT.search(row.notes or ""):
        return "hf-kbit"
    if found.stack == "torchtitan":
        return _torchtitan(row)
    if found.stack == "megatron-core" and (release := _CORE_RELEASE.search(row.framework or "")):
        minor = int(release[1])
        return next((stack for last, stack in _CORE_RELEASES if minor <= last), _NEWEST_CORE)
    return _by_year(row, found)


def _by_year(row: TableRow, found: _Framework) -> str:
    if found.stack == "fsdp" and row.year is not None and row.year <= _LAST_YEAR_OF_FIRST_KERNELS:
        return "fsdp-2023"
    if found.family == "Megatron-DeepSpeed" and "bf16" in (row.precision or "").lower():
        return "megatron-deepspeed-bf16"
    if (
        found.stack == "megatron-lm"
        and found.family == "Megatron-LM"
        and row.year is not None
        and row.year >= _FIRST_YEAR_OF_CORE
    ):
        return "megatron-core"
    return _nemo(row) if found.family == "NeMo" else found.stack


def _nemo(row: TableRow) -> str:
    """NeMo's stack by its release, such as "NeMo 24.07", else by the year."""
    if row.year is not None and row.year < _FIRST_YEAR_OF_NEMO_ON_CORE:
        return "megatron-lm"
    if release := _NEMO_RELEASE.search(f"{row.framework or ''}; {row.notes or ''}"):
        early = (int(release[1]), int(release[2])) <= _LAST_NEMO_WITH_COMPILED_LOSS
    else:
        early = row.year is not None and row.year <= _LAST_YEAR_OF_COMPILED_LOSS_OF_NEMO
    return "nemo-25.02" if early else "nemo"


def _torchtitan(row: TableRow) -> str:
    """torchtitan's stack, compiled if settings or remarks say so; its tables name the compiler if it is on."""
    remarks = f"{row.framework or ''} {row.notes or ''}".lower()
    if re.search(r"async[ -]?tp", remarks):
        return "torchtitan-async-tp"
    fp8 = _IN_FP8.search(row.precision or "") is not None and not _NOT_COMPILED.search(remarks)
    said = fp8 or "compile" in _NOT_COMPILED.sub("", remarks)
    if not (said if row.settings.compile is None else row.settings.compile):
        return "torchtitan-eager"
    compiled_loss = row.year is not None and row.year >= _FIRST_YEAR_OF_COMPILED_LOSS
    return "torchtitan-compiled-loss" if compiled_loss else "torchtitan"
