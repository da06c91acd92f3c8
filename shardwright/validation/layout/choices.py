"""The choices of a plan that a row states or leaves open: ZeRO stage, micro batch, recompute.

An open choice has the values that people run, the likeliest first. An optimiser would take others: it would trade a
microbatch against a recomputed layer to gain a percent, which no recipe does.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from shardwright.base import divisors
from shardwright.specs import ZeroStage
from shardwright.validation.table import SkippedRowError, TableRow

# How sources name what is sharded, without case, separators and the word "zero".
_ZERO_STAGES: dict[str, ZeroStage] = {
    **dict.fromkeys(("0", "none", "no", "false", "ddp"), 0),
    **dict.fromkeys(("1", "distributedoptimizer", "distopt"), 1),
    **dict.fromkeys(("2", "fsdpgradop", "shardgradop"), 2),
    **dict.fromkeys(("3", "fsdp", "fsdp2", "fsdpfull", "fullshard", "hsdp", "hybridshard"), 3),
}
_SHARDS_PARAMETERS = ("llm-foundry", "torchtitan", "torchtune", "PyTorch", "Lightning", "NeMo AutoModel", "DeepSpeed")
MEGATRONS = ("Megatron-LM", "Megatron-Core", "NeMo", "Megatron-DeepSpeed")
# Megatron-LM has a distributed optimizer since 2022 (Korthikanti et al., arXiv 2205.05198, artifact), and recipes use it.
_FIRST_YEAR_OF_DISTRIBUTED_OPTIMIZER = 2023
# Torchtitan's "selective layer": every second layer in full, the default of its option.
_EVERY_SECOND_LAYER = re.compile(r"\bselective (?:per[- ])?layer\b|\bevery (?:2nd|second) layer\b", re.IGNORECASE)
_ADDED_ONE_BY_ONE = re.compile(r"cumulative technique:", re.IGNORECASE)
_CHECKPOINTING_ADDED = re.compile(r"\+ activation checkpointing", re.IGNORECASE)
_SWIFT = re.compile(r"swift", re.IGNORECASE)
_USUAL_MICRO_BATCHES = (16, 8, 4, 2, 1)


class Recompute(NamedTuple):
    """`full_share` of a stage's layers are recomputed whole; of the others the attention core where `selective`."""

    words: str
    full_share: float = 0.0
    selective: bool = False


NOTHING, CORE, WHOLE = Recompute("none"), Recompute("selective", selective=True), Recompute("full", full_share=1.0)
EVERY_SECOND = Recompute("every second layer", full_share=0.5)
# Megatron recomputes a number of layers of each stage (--recompute-method block --recompute-num-layers).
_PARTS = tuple(
    Recompute(f"full in {words} of the layers", share)
    for words, share in (("a quarter", 0.25), ("half", 0.5), ("three quarters", 0.75))
)
_STATED: dict[str, Recompute] = {
    **dict.fromkeys(("none", "no", "false", "off"), NOTHING),
    **dict.fromkeys(("selective", "sac"), CORE),
    **dict.fromkeys(("full", "yes", "true", "uniform"), WHOLE),
}


def zero_stages(row: TableRow, family: str, *, pp: int, shards: int) -> Sequence[ZeroStage]:
    """The stages that `row` can mean for a copy of the model over `shards` ranks.

    Raises:
        SkippedRowError: the row names a stage that does not exist.
    """
    if shards == 1:
        return (0,)
    if row.zero_or_fsdp is None:
        if family in _SHARDS_PARAMETERS:
            return (3,)
        # BigScience's launch scripts set ZERO_STAGE=1 (bigscience-workshop/bigscience, train/tr1-13B-base and tr3-1B3-baseline)
        shards_states = family == "Megatron-DeepSpeed" or (row.year or 0) >= _FIRST_YEAR_OF_DISTRIBUTED_OPTIMIZER
        return (1, 0) if shards_states else (0, 1)
    folded = re.sub(r"[\W_]+", "", row.zero_or_fsdp.lower()).removeprefix("zero")
    if folded not in _ZERO_STAGES:
        raise SkippedRowError(f"zero_or_fsdp '{row.zero_or_fsdp}' is not known")
    stage = _ZERO_STAGES[folded]
    if stage == 3 and pp > 1 and family == "torchtitan":
        # in a pipeline it keeps gathered parameters from the first microbatch to the last, and reduces once, whole, in fp32
        return (1,)
    return (stage,)


def by_stages(row: TableRow, family: str, *, pp: int, sequences: int) -> bool:
    """Whether the microbatches are as many as pipeline ranks: torchtitan's default."""
    return row.micro_batch is None and pp > 1 and sequences % pp == 0 and family == "torchtitan"


def micro_batches(row: TableRow, family: str, *, pp: int, sequences: int) -> Sequence[int]:
    """The micro batches that `row` can mean for `sequences` of a data-parallel rank.

    Unknown, a pipeline runs 1, because more microbatches make its bubble smaller. Without a pipeline people fill the
    memory, by powers of two.

    Raises:
        SkippedRowError: the stated one does not divide the sequences.
    """
    if row.micro_batch is not None:
        if sequences % row.micro_batch:
            raise SkippedRowError("global_batch is not a multiple of dp * micro_batch: microbatches had unequal sizes")
        return (row.micro_batch,)
    if by_stages(row, family, pp=pp, sequences=sequences):
        return (sequences // pp,)
    usual = [size for size in _USUAL_MICRO_BATCHES if size in divisors(sequences)]
    return usual[::-1] if pp > 1 else usual


def recomputes(row: TableRow, family: str) -> Sequence[Recompute]:
    """What `row` can have recomputed; unknown, everything there is, the least first.

    Raises:
        SkippedRowError: the row's word is not known.
    """
    stated, notes, modules = (row.recompute or "unknown").lower(), row.notes or "", row.settings.modules
    if modules and (stated == "unknown" or _STATED.get(stated) in (NOTHING, CORE)):
        return (CORE,)  # "selective" stands for the modules of the training
    if stated == "selective" and _EVERY_SECOND_LAYER.search(notes):
        return (EVERY_SECOND,)
    if stated != "unknown":
        if stated not in _STATED:
            raise SkippedRowError(f"recompute '{row.recompute}' is not known")
        return (_STATED[stated],)
    if modules is not None:
        return (NOTHING,)
    if _CHECKPOINTING_ADDED.search(notes):
        return (WHOLE,)  # in tables that add techniques one by one, it is on from the run that adds it
    if _ADDED_ONE_BY_ONE.search(notes):
        return (NOTHING,)
    if _SWIFT.search(row.framework or ""):
        # docs of ms-swift, Command-line-parameters.md: gradient_checkpointing is on by default, and Megatron-SWIFT recomputes the core
        return (CORE,) if family in MEGATRONS else (WHOLE,)
    return (NOTHING, CORE, *(_PARTS if family in MEGATRONS else ()), WHOLE)
