"""Memory over the step: what each pipeline rank holds from block to block."""

from collections.abc import Mapping

from shardwright.reports.charts import PARTS, Held, Memory, seven_digits
from shardwright.specs import ClusterSpec, Estimate, MemoryBytes, Timeline

from .bars import memory_marks

_MOST_POINTS = 60_000
_ROUNDING_BYTES = 1.0
_MOVING = ("activations", "logits", "optimizer_step")


def memory_over_time(estimate: Estimate, timeline: Timeline, cluster: ClusterSpec) -> Memory:
    """The curves of all pipeline ranks, or where these have very many points, of some between the first and the last, and of the
    fullest."""
    return Memory(
        seconds=timeline.step_seconds,
        moving={"name": "activations of microbatches in flight", "colour": "activations"},
        ranks=tuple(_held(estimate, timeline, cluster, rank) for rank in _ranks(timeline)),
    )


def _ranks(timeline: Timeline) -> list[int]:
    """The ranks to show, fullest first, so that it is the one that a reader sees."""
    peaks = [curve.peak_bytes for curve in timeline.memory]
    fullest = peaks.index(max(peaks))
    most = max(1, _MOST_POINTS // max(1, max(len(curve.seconds) for curve in timeline.memory)))
    step = -(-timeline.pp // most)
    others = [rank for rank in range(timeline.pp) if rank != fullest and (rank % step == 0 or rank == timeline.pp - 1)]
    return [fullest, *others]


def _held(estimate: Estimate, timeline: Timeline, cluster: ClusterSpec, rank: int) -> Held:
    curve = timeline.memory[rank]
    static = float(curve.bytes[0])
    return Held(
        name=f"rank {timeline.rank_name(rank)}",
        held=tuple(_parts(estimate.memory[rank], static)),
        seconds=[seven_digits(seconds) for seconds in curve.seconds.tolist()],
        moving=[seven_digits(size) for size in (curve.bytes - static).tolist()],
        marks=memory_marks(estimate, cluster, [rank]),
    )


def _parts(memory: MemoryBytes, static: float) -> list[tuple[Mapping[str, str], float]]:
    """What the simulation counts as held all the time, by part. A layer's working memory comes and goes with each pass and counts as
    held. Where the update needs more than the passes, the estimate has the parts of the update, and the sum alone is shown."""
    found: list[tuple[Mapping[str, str], float]] = [
        ({"name": part.replace("_", " "), "colour": part}, float(getattr(memory, part)))
        for part in PARTS
        if part not in _MOVING and getattr(memory, part) > 0
    ]
    rest = static - sum(size for _, size in found)
    if rest < -_ROUNDING_BYTES:
        return [({"name": "held over the whole step", "colour": "parameters"}, static)]
    return (
        [*found, ({"name": "working memory of one layer or the loss", "colour": "logits"}, rest)]
        if rest > _ROUNDING_BYTES
        else found
    )
