"""Context and expert parallelism of a table row, and the load of its experts."""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from shardwright.specs import ContextParallel, ExpertDispatch
from shardwright.validation.table import SkippedRowError, TableRow

_NAMED: tuple[tuple[str, ContextParallel], ...] = (
    (r"ulysses|deepspeed[ -]sequence parallel", "ulysses"),
    (r"ring[ -]attention|\bcp[ _-]p2p\b", "ring"),
    (r"all[ -]?gather[^;]*\bcp\b|\bcp\b[^;]*all[ -]?gather", "all-gather"),
)
_RINGS = ("Megatron-LM", "Megatron-Core", "NeMo")  # the default of theirs; torch's own is to gather
_EVEN_ROUTING = re.compile(r"forced? balanc|balanced gate|fake gate|uniform rout", re.IGNORECASE)
_DEDUPLICATING = re.compile(r"deep-?ep|hybrid-?ep", re.IGNORECASE)
_CAPACITY = re.compile(r"\bcapacity(?:[ _-]factor)? ?[=:]? ?(\d+(?:\.\d+)?)", re.IGNORECASE)
_FAKE_GATE = re.compile(r"fake (?:balanced )?gate", re.IGNORECASE)


class RowAxes(NamedTuple):
    """Degrees beside tp, pp and dp, how context is exchanged over `cp` and tokens over `ep`."""

    cp: int
    ep: int
    context_parallel: ContextParallel
    expert_dispatch: ExpertDispatch


def axes_of_row(row: TableRow, family: str) -> tuple[RowAxes, list[str]]:
    """The axes that `row` states, and what was assumed. `family` is that of its software.

    Raises:
        SkippedRowError: experts have a capacity above 1, and tables don't say whether they pad to it.
    """
    cp, ep = row.cp or 1, row.ep or 1
    assumptions = []
    capacity = _CAPACITY.search(row.notes or "") if row.experts else None
    if capacity and float(capacity[1]) != 1.0:
        raise SkippedRowError("expert capacity above 1: whether experts pad to it is not stated")
    if capacity:
        assumptions.append("expert capacity 1 under an even load: nothing dropped, nothing padded")
    remarks = f"{row.framework or ''}; {row.notes or ''}".lower()
    exchange = next((name for pattern, name in _NAMED if re.search(pattern, remarks)), None)
    if exchange is None:
        exchange = "ring" if family in _RINGS else "all-gather"
        if cp > 1:
            assumptions.append(f"context exchanged by {exchange}")
    stated = row.settings.dispatch
    deduplicated = stated != "all-to-all" if stated else bool(_DEDUPLICATING.search(remarks))
    if row.ep is None and row.experts:
        ep = math.gcd(row.experts, row.dp or 1) if deduplicated else 1
        assumptions.append("experts spread as wide as they divide" if deduplicated else "every rank holds every expert")
    if row.experts and not _EVEN_ROUTING.search(remarks):
        assumptions.append("experts evenly loaded")
    return RowAxes(cp, ep, exchange, "deduplicated" if deduplicated else "all-to-all"), assumptions


def routing_of_row(row: TableRow) -> Literal["random", "consecutive"]:
    """Where a token's experts lie; NeMo AutoModel's fake gate deals experts out in a row, token after token."""
    return "consecutive" if _FAKE_GATE.search(row.notes or "") else "random"


def expert_splits(row: TableRow, ep: int, *, megatron: bool) -> Sequence[int]:
    """How many ranks split an expert, 0 for what ep leaves of tp.

    Unstated, Megatron splits experts as it splits the other layers (expert_tensor_parallel_size, parallel_state.py).
    """
    stated, tp = row.settings.expert_tp, row.tp or 1
    if ep == 1:
        return (0,)
    if stated is not None:
        return (stated,)
    return (tp, 0) if megatron and tp > 1 else (0,)
