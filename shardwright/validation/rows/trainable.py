"""From a table row to what its run trained: every weight, or adapters beside frozen weights."""

import re

from shardwright.specs import Trainable
from shardwright.validation.table import TableRow

_ADAPTERS = re.compile(r"\bq?lora\b", re.IGNORECASE)
# `lora-r16`, the short form of the setting
_SHORT = re.compile(r"(q?lora)(?:-r(\d+))?", re.IGNORECASE)
_RANK = re.compile(r"\br ?= ?(\d+)\b|\brank[ =]*(\d+)\b", re.IGNORECASE)
_TARGETS = re.compile(r"\bon ((?:[a-z]+_(?:proj|attn)[ ,+]*)+)", re.IGNORECASE)
_JOINED = {"c_attn": ("q_proj", "k_proj", "v_proj")}  # of GPT-2 and GPT-BigCode
# The benchmarks of fms-acceleration set lora_dropout to 0.1 (scripts/benchmarks/scenarios.yaml); ms-swift's default is 0.05 (docs,
# Command-line-parameters.md).
_WITH_DROPOUT = (
    (re.compile(r"fms-acceleration", re.IGNORECASE), "the source's scenarios set it"),
    (re.compile(r"swift", re.IGNORECASE), "ms-swift sets it by default"),
)

# Rank and targets where a source states none, by its software; the first that is found counts.
_USUAL: tuple[tuple[str, int, tuple[str, ...], str], ...] = (
    # examples of MLPerf's llama2_70b_lora: rank 16 on the attention (training_policies, benchmark rules)
    (r"mlperf", 16, ("attention",), "MLPerf's rules"),
    # Megatron-Bridge and NeMo, recipes for performance of Llama 3 with LoRA: rank 16 on linear_qkv (llama3_70b_peft_8gpu_h100_bf16_config)
    (r"dgxc|docs/source/performance", 16, ("q_proj", "k_proj", "v_proj"), "NVIDIA's recipes for performance"),
    # NeMo, collections/llm/peft/lora.py: dim 32 on linear_qkv, linear_proj, linear_fc1, linear_fc2
    (r"nemo", 32, ("all-linear",), "NeMo's defaults"),
    # ms-swift, docs Command-line-parameters.md: lora_rank 8, target_modules all-linear
    (r"swift", 8, ("all-linear",), "ms-swift's defaults"),
    # LLaMA-Factory, hparams/finetuning_args.py: lora_rank 8, lora_target all
    (r"llama-?factory", 8, ("all-linear",), "LLaMA-Factory's defaults"),
    # torchtune, recipes/configs/llama3_1/8B_lora.yaml and 8B_qlora_single_device.yaml: rank 8 on q, v and output and on the MLP
    (r"torchtune", 8, ("q_proj", "v_proj", "o_proj", "mlp"), "torchtune's recipes"),
)


def trains_adapters(row: TableRow) -> bool:
    """Whether the run trains adapters, by its setting, the table's mark, or its words."""
    if row.settings.trainable is not None:
        return row.settings.trainable.strip() != "all"
    return any(
        _ADAPTERS.search(text) for text in (row.reason, row.model, row.precision, row.framework, row.notes) if text
    )


def trainable_of_row(row: TableRow) -> tuple[Trainable, list[str]]:
    """What the run trained, and what was assumed.

    The setting counts first, in the form of `Trainable` or as `lora-r16`. Otherwise the notes may state rank and targets
    ("LoRA r=16 on q_proj v_proj"), else those of the software count. "QLoRA", "nf4", "GPTQ" and "int8" in model, precision
    or notes name the format of the frozen weights.

    Raises:
        ValidationError: the setting is neither.
    """
    if not trains_adapters(row):
        return Trainable(), []
    stated = (row.settings.trainable or "").strip()
    short = _SHORT.fullmatch(stated)
    if stated and not short:
        return Trainable.model_validate(stated), []
    rank, targets, assumptions = _sizes(row, int(short[2]) if short and short[2] else None)
    fields = {"kind": "lora", "rank": rank, "targets": targets, "base": _base(row, stated)}
    origin = f"{row.framework or ''} {row.source or ''}"
    reason = next((words for pattern, words in _WITH_DROPOUT if pattern.search(origin)), None)
    if reason is not None:
        assumptions.append(f"dropout before adapters, as {reason}")
    return Trainable.model_validate(fields | {"dropout": reason is not None}), assumptions


def _sizes(row: TableRow, rank: int | None) -> tuple[int, tuple[str, ...], list[str]]:
    """Rank and targets: as stated, else as usual for the software."""
    notes = row.notes or ""
    found, named = _RANK.search(notes), _TARGETS.search(notes)
    rank = rank or (int(found[1] or found[2]) if found else None)
    targets = _known(named[1]) if named else ()
    if rank and targets:
        return rank, targets, []
    software = f"{row.framework or ''} {row.source or ''}".lower()
    usual = next((each for each in _USUAL if re.search(each[0], software)), ("", 16, ("all-linear",), "common choices"))
    lacking = " and ".join(name for name, is_open in (("rank", not rank), ("targets", not targets)) if is_open)
    return rank or usual[1], targets or usual[2], [f"{lacking} of the adapters: {usual[3]}"]


def _known(text: str) -> tuple[str, ...]:
    """The targets by their standard names. A joined projection is all that it joins; beside it separate names name nothing, as
    a model has one or the other."""
    names = re.findall(r"[a-z]+_[a-z]+", text.lower())
    return tuple(dict.fromkeys(name for given in names for name in _JOINED.get(given, (given,))))


def _base(row: TableRow, stated: str) -> str:
    said = f"{row.model or ''}; {row.precision or ''}; {row.notes or ''}; {stated}".lower()
    if "gptq" in said:
        return "gptq"
    if re.search(r"qlora\b|\bnf4\b|\b4-?bit\b|\bbnb\b", said):
        return "nf4"
    return "int8" if re.search(r"\bint8\b|\b8-?bit\b", said) else "compute"
