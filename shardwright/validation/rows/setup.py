"""From a table row to the cost model's input: model, cluster, training, and the possible plans."""

import re
from typing import Literal, NamedTuple

from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Plan, TrainingSpec, named_stack
from shardwright.specs.model import ModelSpec

from .axes import routing_of_row
from .cluster import StandardNode, cluster_of_row
from .memory_reading import memory_assumption
from .model import model_of_row
from .not_modelled import refuse_other_runs
from .plans import plans_of_row
from .precision import precision_of_row
from .stack import stack_of_row
from .table import SkippedRowError, TableRow

_FUSED = r"flash|sdpa|fused|cudnn|xformers|efficient|flex|splash|pallas|triton|\bte\b|\bfa-?[234]\b|transformer ?engine"
_UNFUSED = r"unfused|eager|math|naive|standard|not fused|\bcore\b"
_FIRST_YEAR_OF_FUSED_ATTENTION = 2022  # FlashAttention, arXiv 2205.14135


class RowSetup(NamedTuple):
    """One run of a table as the cost model sees it.

    `plans`, `fixed` and `unknown` are those of `RowPlans`. `assumptions`: what the setup needed and the row does not say.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plans: tuple[Plan, ...]
    assumptions: tuple[str, ...]
    fixed: tuple[Fixed, ...] = ()
    unknown: tuple[str, ...] = ()


def setup_of_row(row: TableRow, standard_node: StandardNode) -> RowSetup:
    """Read `row` as a run.

    Raises:
        SkippedRowError: the row is no such run; says why.
    """
    refuse_other_runs(row)
    model, model_assumptions = model_of_row(row)
    precision, precision_assumptions = precision_of_row(row)
    if row.seq_len is None or row.global_batch is None:
        raise SkippedRowError("seq_len unknown" if row.seq_len is None else "global_batch unknown")
    attention, attention_assumptions = _attention(row)
    stack, stack_assumptions = stack_of_row(row)
    precision = precision.model_copy(update=named_stack(stack).fixed_formats)
    training = TrainingSpec(
        seq_len=row.seq_len,
        global_batch=row.global_batch,
        precision=precision,
        attention=attention,
        stack=stack,
        routing=routing_of_row(row),
    )
    found, plan_assumptions = plans_of_row(row, model.layer_count)
    cluster, cluster_assumptions = cluster_of_row(row, standard_node)
    assumptions = (
        *model_assumptions,
        *precision_assumptions,
        *attention_assumptions,
        *stack_assumptions,
        *plan_assumptions,
        *cluster_assumptions,
        *([memory_assumption(row)] if row.peak_mem_gb is not None else []),
    )
    if precision.compute not in cluster.node.device.peak_flops_per_s:
        raise SkippedRowError(f"the device's {precision.compute} peak is not known")
    return RowSetup(model, cluster, training, found.plans, assumptions, found.fixed, found.unknown)


def _attention(row: TableRow) -> tuple[Literal["flash", "unfused"], list[str]]:
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
