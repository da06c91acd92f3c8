"""From a table row to what the cost model takes: model, cluster, training, and the plans the row can mean."""

from typing import Literal, NamedTuple

from shardwright.costmodel.cluster import ClusterSpec
from shardwright.costmodel.model import ModelSpec
from shardwright.costmodel.plan import Plan
from shardwright.costmodel.training import TrainingSpec

from .row_cluster import StandardNode, cluster_of_row
from .row_model import model_of_row
from .row_plan import plans_of_row
from .row_precision import precision_of_row
from .skipped_row import SkippedRowError
from .table import TableRow


class RowSetup(NamedTuple):
    """One run of a table as the cost model sees it. `plans` holds one plan for a row that leaves nothing unknown.

    `assumptions` says what the row does not and the setup needed.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plans: tuple[Plan, ...]
    assumptions: tuple[str, ...]


def setup_of_row(row: TableRow, standard_node: StandardNode) -> RowSetup:
    """Read `row` as a run.

    Raises:
        SkippedRowError: it cannot be read as one, with the reason.
    """
    if row.reason is not None:
        raise SkippedRowError(row.reason)
    model, model_assumptions = model_of_row(row)
    precision, precision_assumptions = precision_of_row(row)
    if row.seq_len is None or row.global_batch is None:
        raise SkippedRowError("seq_len unknown" if row.seq_len is None else "global_batch unknown")
    attention, attention_assumptions = _attention(row)
    training = TrainingSpec(
        seq_len=row.seq_len, global_batch=row.global_batch, precision=precision, attention=attention
    )
    plans, plan_assumptions = plans_of_row(row, model.layer_count)
    cluster, cluster_assumptions = cluster_of_row(row, standard_node)
    assumptions = (
        *model_assumptions,
        *precision_assumptions,
        *attention_assumptions,
        *plan_assumptions,
        *cluster_assumptions,
    )
    return RowSetup(model, cluster, training, tuple(plans), assumptions)


def _attention(row: TableRow) -> tuple[Literal["flash", "unfused"], list[str]]:
    if row.attention is None:
        return "flash", ["fused attention"]
    stated = row.attention.lower()
    if "flash" in stated or "sdpa" in stated:
        return "flash", []
    if stated == "unfused":
        return "unfused", []
    raise SkippedRowError(f"attention '{row.attention}' is not known")
