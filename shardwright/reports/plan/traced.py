"""A dry run as tables: each collective of a step beside its charge, then FLOPs and kept activations."""

from rich.table import Table

from shardwright.base import listed
from shardwright.base import units as readable
from shardwright.specs import DryRun, Traced, TracedRank, UnchargedTraffic


def traced_table(found: DryRun, rank: TracedRank) -> Table:
    """What one rank does in a step, beside what it is charged for. Sizes are sums over a step."""
    alike = f"pipeline rank {rank.pipeline_rank}"
    if len(rank.alike) > 1:
        alike += f", like {listed(other for other in rank.alike if other != rank.pipeline_rank)}"
    table = Table("", title=f"Rank {rank.rank} of {found.world_size} ({alike})", title_justify="left")
    for column in ("calls", "traced", "charged", "difference"):
        table.add_column(column, justify="right")
    for entry in rank.traffic:
        shown = readable.size(entry.bytes.traced), readable.size(entry.bytes.charged)
        calls = readable.count(entry.calls.traced)
        table.add_row(f"{entry.axis}: {entry.collective.replace('_', '-')}", calls, *shown, _difference(entry.bytes))
    table.add_section()
    table.add_row(
        "FLOPs", "", readable.amount(rank.flops.traced), readable.amount(rank.flops.charged), _share(rank.flops)
    )
    kept = rank.activation_bytes
    table.add_row(
        "activations kept, one microbatch", "", readable.size(kept.traced), readable.size(kept.charged), _share(kept)
    )
    return table


def traced_notes(found: DryRun) -> list[str]:
    """How the numbers were made, and what nothing is charged for."""
    traced = found.traced_microbatches
    if traced == (found.microbatches,):
        how = (
            f"traced with all {found.microbatches} microbatches"
            if found.microbatches > 1
            else "traced with its one microbatch"
        )
    else:
        how = f"traced with {traced[0]} and {traced[1]} microbatches; the others count as the difference of the two"
    by_cause: dict[str, UnchargedTraffic] = {}
    for rank in found.ranks:
        for one in rank.uncharged:
            if one.cause not in by_cause or by_cause[one.cause].bytes < one.bytes:
                by_cause[one.cause] = one
    left_out = [
        f"not charged: {one.cause}: {readable.count(one.calls)} calls, {readable.size(one.bytes)} a step"
        for one in by_cause.values()
    ]
    return [how, *left_out]


def _difference(sizes: Traced) -> str:
    if not sizes.difference:
        return "equal"
    return f"{sizes.difference:+,.0f} B" if abs(sizes.difference) < 1024 else _signed(sizes.difference)


def _signed(size: float) -> str:
    return ("+" if size > 0 else "-") + readable.size(abs(size))


def _share(sizes: Traced) -> str:
    if not sizes.difference:
        return "equal"
    return f"{100 * sizes.relative_difference:+.3f}%" if sizes.charged else "not charged"
