"""A row of a table as a typed run: what it reports, and the cost model's input that reproduces it."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.specs import ClusterSpec, CudaGraphs, RecomputeModule, TrainingSpec, named_stack
from shardwright.specs.model import ModelSpec
from shardwright.validation.architecture import model_of_row
from shardwright.validation.layout import Reading, plans_of_row, routing_of_row, with_work
from shardwright.validation.table import SkippedRowError, TableRow, source_name

from .cluster import StandardNode, cluster_of_row
from .memory_reading import MemoryReading, memory_assumption, reading_of_row
from .metrics import MeasuredStep, NoStep, measured_step
from .not_modelled import refuse_other_runs, skip_reason
from .precision import precision_of_row
from .stack import ZERO3, Software, software_of_row
from .trainable import trainable_of_row, trains_adapters

_FUSED = r"flash|sdpa|fused|cudnn|xformers|efficient|flex|splash|pallas|triton|\bte\b|\bfa-?[234]\b|transformer ?engine"
# NVIDIA/JAX-Toolbox, rosetta/projects/pax/xla_flags/gpt-126m.env: --xla_gpu_enable_cudnn_fmha=false
_TRANSFORMER_ENGINE = re.compile(r"\bTE\b|transformer ?engine", re.IGNORECASE)
_LIGER = re.compile(r"framework_config=\S*liger|liger(?: kernel)? on|use_liger", re.IGNORECASE)
_UNFUSED = r"unfused|eager|math|naive|standard|not fused|\bcore\b"
# Megatron-Core, transformer_config.py: defaults of moe_deepep_num_sms and moe_hybridep_num_sms.
_DISPATCH_MULTIPROCESSORS = {"deepep": 20, "hybridep": 16}
_FIRST_YEAR_OF_FUSED_ATTENTION = 2022  # FlashAttention, arXiv 2205.14135


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """What a row reports of its run, whether or not the rest of the row can be read. None is unknown.

    `source`: the table or document of `source_name`. `framework`: the family of `Software`. `core`: whether the error
    of this run has a target (see `_is_core`). `value`: as published, in `unit`.
    """

    id: str
    source: str
    framework: str
    core: bool
    unit: str | None
    value: float | None
    memory_bytes: float | None


@dataclass(frozen=True, kw_only=True)
class SkippedRun(ReportedRun):
    """A row that is no run of the cost model; `reason` is worded alike for rows of the same kind."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class MeasuredRun(ReportedRun):
    """One run of a table as the cost model sees it; its stack is that of `training`.

    `readings` and `unknown` are those of `RowPlans`. `assumptions`: what the run needed and its row does not say.
    `device`, `job` and `notes` are in the row's own words; runs of one job differ only in their plan.
    `memory_reading`: how the source read `memory_bytes`; None if no prediction can be compared with it.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    readings: tuple[Reading, ...]
    unknown: tuple[str, ...]
    assumptions: tuple[str, ...]
    device: str
    job: str
    notes: str | None
    step: MeasuredStep | NoStep
    memory_reading: MemoryReading | None


def measured_run(row: TableRow, standard_node: StandardNode) -> MeasuredRun | SkippedRun:
    """Read `row` as a run; `standard_node` gives the usual node of a device. A row that is no such run says why."""
    software = software_of_row(row)
    reported = ReportedRun(
        id=row.id,
        source=source_name(row.source),
        framework=software.family,
        core=_is_core(row, software),
        unit=row.metric_unit,
        value=row.metric_value,
        memory_bytes=1e9 * row.peak_mem_gb if row.peak_mem_gb is not None else None,
    )
    try:
        return _read(row, reported, software, standard_node)
    except (SkippedRowError, SpecError, ValidationError) as refusal:
        return SkippedRun(**vars(reported), reason=skip_reason(refusal))


def _is_core(row: TableRow, software: Software) -> bool:
    """Whether a row is of the core: all rows except those that train adapters, which are counted apart, and three kinds whose
    times vary for reasons that no plan shows.

    - nanotron: single runs, several of which are slower on more devices than on fewer;
    - DeepSpeed ZeRO-3: the same step on 768 and on 1536 devices in SC21 Table 2, set by its software;
    - V100: nearly all from one machine, whose network varied by 40% according to its users.

    These kinds get an interval, not a target.
    """
    if trains_adapters(row):
        return False
    return software.family not in ("nanotron", ZERO3) and "v100" not in (row.gpu or "").lower()


def _read(row: TableRow, reported: ReportedRun, software: Software, standard_node: StandardNode) -> MeasuredRun:
    run_assumptions = refuse_other_runs(row)
    length_stated = row.seq_len is not None
    row, work_assumptions = with_work(row)
    model, model_assumptions = model_of_row(row)
    training, training_assumptions = _training(row, software)
    found, plan_assumptions = plans_of_row(row, software.family, model.layer_count)
    cluster, cluster_assumptions = cluster_of_row(row, standard_node)
    compute = training.precision.compute
    if compute not in cluster.node.device.peak_flops_per_s:
        raise SkippedRowError(f"the device's {compute} peak is not known")
    reading = reading_of_row(row, software.family) if length_stated else None
    memory_assumptions = [] if row.peak_mem_gb is None else [memory_assumption(reading)]
    return MeasuredRun(
        **vars(reported),
        model=model,
        cluster=cluster,
        training=training,
        readings=found.readings,
        unknown=found.unknown,
        assumptions=(
            *run_assumptions,
            *work_assumptions,
            *model_assumptions,
            *training_assumptions,
            *plan_assumptions,
            *cluster_assumptions,
            *memory_assumptions,
        ),
        device=row.gpu or "unknown",
        job=_job(row),
        notes=row.notes,
        step=measured_step(row, model, cluster, training),
        memory_reading=reading,
    )


def _training(row: TableRow, software: Software) -> tuple[TrainingSpec, list[str]]:
    precision, precision_assumptions = precision_of_row(row, software.family)
    if row.seq_len is None or row.global_batch is None:
        raise SkippedRowError("seq_len unknown" if row.seq_len is None else "global_batch unknown")
    attention, attention_assumptions = _attention(row, software.stack)
    trainable, trainable_assumptions = trainable_of_row(row)
    training = TrainingSpec(
        seq_len=row.seq_len,
        global_batch=row.global_batch,
        precision=precision.model_copy(update=named_stack(software.stack).fixed_formats),
        attention=attention,
        stack=software.stack,
        loss_chunks=_loss_chunks(row),
        routing=routing_of_row(row),
        overlaps_dispatch=bool(row.settings.expert_overlap),
        dispatch_multiprocessors=_DISPATCH_MULTIPROCESSORS.get(row.settings.dispatch or ""),
        fp8_attention=bool(row.settings.fp8_attention),
        activation_offload_layers=row.settings.activation_offload_layers or 0,
        high_precision_layers=row.settings.high_precision_layers or 0,
        mtp_layers=row.settings.mtp_layers or 0,
        recompute_modules=_recompute_modules(row),
        cuda_graphs=_cuda_graphs(row),
        trainable=trainable,
    )
    assumptions = [*precision_assumptions, *attention_assumptions, *trainable_assumptions, *software.assumptions]
    return training, assumptions


def _recompute_modules(row: TableRow) -> tuple[RecomputeModule, ...]:
    """The modules of the setting.

    Raises:
        SkippedRowError: one of them has no known name.
    """
    known: tuple[RecomputeModule, ...] = get_args(RecomputeModule)
    stated = row.settings.modules or ()
    if unknown := [module for module in stated if module not in known]:
        raise SkippedRowError(f"recompute of module '{unknown[0]}' is not known; known: {', '.join(known)}")
    return tuple(module for module in known if module in stated)


def _cuda_graphs(row: TableRow) -> CudaGraphs:
    """What is launched as a graph, by the words of the setting; nothing if it is unknown."""
    stated = (row.settings.cuda_graphs or "").lower()
    if re.search("whole|full|step", stated):
        return "whole"
    attention, router = re.search("att", stated), re.search("rout", stated)
    if attention:
        return "attention+router" if router else "attention"
    return "router" if router else "none"


def _loss_chunks(row: TableRow) -> int:
    """Pieces of the loss: stated, or those of Liger's kernel, as many as the vocabulary is wider than the hidden state
    (fused_linear_cross_entropy.py)."""
    if row.settings.loss_chunks is not None:
        return row.settings.loss_chunks
    if _LIGER.search(row.notes or "") and row.vocab and row.hidden:
        return -(-row.vocab // row.hidden)
    return 1


def _attention(row: TableRow, stack: str) -> tuple[Literal["flash", "unfused"], list[str]]:
    guessed = row.attention is None or "attention" in (row.fields_not_read or "")
    if stack == "paxml" and guessed and not _TRANSFORMER_ENGINE.search(f"{row.precision} {row.framework}"):
        return "unfused", ["attention as XLA compiles it: Paxml without Transformer Engine has no fused kernel"]
    if row.attention is None:
        if row.year is not None and row.year < _FIRST_YEAR_OF_FUSED_ATTENTION:
            return "unfused", ["unfused attention, as of its year"]
        return "flash", ["fused attention"]
    stated = row.attention.lower()
    if re.search(_UNFUSED, stated):
        return "unfused", []
    if re.search(_FUSED, stated):
        return "flash", []
    raise SkippedRowError(f"attention '{row.attention}' is not known")


def _job(row: TableRow) -> str:
    job = f"{row.model}, {row.gpus} x {row.gpu}, {row.precision}, batch {row.global_batch} x {row.seq_len} tokens"
    return f"{job}, {row.interconnect}" if row.interconnect else job
