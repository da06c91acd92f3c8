"""FLOPs and bytes of one measured size of a profile, which turn its seconds into a rate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shardwright.costmodel.op_times import (
    ATTENTION_BACKWARD,
    CALIBRATED,
    CLIP_PASSES,
    OPERANDS,
    OPERATOR_PASSES,
    UPDATE_PASSES,
    Operator,
    cast_bytes,
    operator_passes,
)
from shardwright.specs import BYTES_PER_ELEMENT, Point, Profile, Series

Family = Literal[
    "matmul", "attention", "operators", "casts", "optimizer", "host copies", "disk", "collectives", "other"
]
RateUnit = Literal["FLOP/s", "B/s"]

_UPDATES: Mapping[str, float] = {
    **{str(name): passes for name, passes in UPDATE_PASSES.items()},
    "host_adamw": UPDATE_PASSES["adamw"],
    "clip": CLIP_PASSES,
}
_OPERATORS: Mapping[str, Operator] = {str(name): name for name in OPERATOR_PASSES}
_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")


@dataclass(frozen=True)
class Work:
    """FLOPs (a multiply-add being two) and bytes of one run of an operation.

    Bytes are those that must move without a cache: operands read and results written once. For a collective they
    are those on the busiest link, so that their rate is the bus bandwidth of nccl-tests.
    """

    flops: float
    moved_bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.moved_bytes


def family(operation: str) -> Family:
    """The group of operations that is shown together."""
    if operation in ("matmul", "attention"):
        return "matmul" if operation == "matmul" else "attention"
    if operation in _OPERATORS or operation == "cross_entropy":
        return "operators"
    if operation == "cast":
        return "casts"
    if operation in _UPDATES:
        return "optimizer"
    if operation in _COLLECTIVES:
        return "collectives"
    if operation == "host_copy":
        return "host copies"
    return "disk" if operation in ("disk_read", "disk_write") else "other"


def rate_unit(operation: str) -> RateUnit:
    """The unit of the operation's limit: FLOP/s for arithmetic, bytes/s for moving bytes."""
    return "FLOP/s" if family(operation) in ("matmul", "attention") else "B/s"


def sizes(series: Series, point: Point) -> dict[str, float]:
    """The point's sizes by the names of their axes."""
    return dict(zip(series.axes, point.at, strict=True))


def work(series: Series, point: Point) -> Work | None:
    """FLOPs and bytes of the point; None for an unknown operation or unknown axes."""
    at = sizes(series, point)
    element = float(BYTES_PER_ELEMENT[series.format]) if series.format else 4.0
    try:
        match family(series.operation):
            case "matmul":
                return _matmul(at, element)
            case "attention":
                return _attention(series.variant, at, element)
            case "operators":
                return Work(0.0, _operator_bytes(series, at, element))
            case "casts":
                return Work(0.0, _cast_bytes(series.variant, element) * at["rows"] * at["width"])
            case "optimizer":
                return Work(0.0, _UPDATES[series.operation] * element * at["elements"])
            case "collectives":
                return Work(0.0, _bus_bytes(series.operation, at))
            case "host copies":
                both = 2.0 if "together" in series.variant else 1.0
                return Work(0.0, both * at["size_bytes"])
            case "disk":
                return Work(0.0, at["size_bytes"])
            case "other":
                return None
    except KeyError:
        return None


def rate(series: Series, point: Point) -> float | None:
    """FLOP/s or bytes/s of the point, as `rate_unit` says; None if its work is unknown or zero."""
    done = work(series, point)
    if done is None:
        return None
    amount = done.flops if rate_unit(series.operation) == "FLOP/s" else done.moved_bytes
    return amount / point.seconds if amount > 0 else None


def seconds_per_element(series: Series, point: Point) -> float | None:
    """Seconds of the point for each element of a cast's source; None for other operations."""
    if family(series.operation) != "casts":
        return None
    at = sizes(series, point)
    return point.seconds / (at["rows"] * at["width"])


def best_point(series: Series) -> tuple[Point, float] | None:
    """The point of the highest rate, and the rate."""
    rated = [(point, value) for point in series.points if (value := rate(series, point)) is not None]
    return max(rated, key=lambda pair: pair[1], default=None)


def memory_rate(profile: Profile) -> float | None:
    """Bytes/s of device memory: the measured figure, or else the best rate of additions and copies on their largest tensors
    (within 8 times of the largest), of which caches hold least."""
    if "memory_bytes_per_s" in profile.figures:
        return profile.figures["memory_bytes_per_s"].value
    moved = [
        (done.moved_bytes, done.moved_bytes / point.seconds)
        for series in profile.series
        if series.operation in ("addition", "copy")
        for point in series.points
        if (done := work(series, point)) is not None
    ]
    largest = max((size for size, _ in moved), default=0.0)
    return max((rate for size, rate in moved if size >= largest / 8), default=None)


def _matmul(at: Mapping[str, float], element: float) -> Work:
    m, k, n, groups = at["m"], at["k"], at["n"], at.get("groups", 1.0)
    return Work(2 * m * k * n * groups, element * groups * (m * k + k * n + m * n))


def _attention(variant: str, at: Mapping[str, float], element: float) -> Work:
    """Scores and weighted values over the keys that a query sees; if causal, half of them and its own."""
    batch, heads, kv_heads = at["batch"], at["heads"], at["kv_heads"]
    length, head_size = at["length"], at["head_size"]
    if variant.endswith(
        "mla"
    ):  # heads of values are two thirds of those of keys, so that both together are five sixths
        head_size *= 5 / 6
    keys = length if "noncausal" in variant else (length + 1) / 2
    flops = 4 * batch * heads * length * keys * head_size
    moved = element * batch * length * head_size * (2 * heads + 2 * kv_heads)
    if variant.startswith("backward"):  # reads those and the output's gradient, writes three gradients
        return Work(ATTENTION_BACKWARD * flops, 2 * moved)
    return Work(flops, moved)


def _operator_bytes(series: Series, at: Mapping[str, float], element: float) -> float:
    backward = series.variant.startswith("backward")
    elements = at["rows"] * at["width"]
    if series.operation == "cross_entropy":
        return float(CALIBRATED.loss_bytes_per_logit) / 2 * elements
    moved = element * operator_passes(_OPERATORS[series.operation], int(element), backward=backward) * elements
    if series.operation == "embedding" and backward:
        return moved + element * at["tokens"] * at["width"]
    return moved


def _cast_bytes(variant: str, element: float) -> float:
    """Bytes of each element that a cast reads and writes at least."""
    known = {str(low): low for low in OPERANDS}
    return float(cast_bytes(known[variant.removesuffix("-compiled")], element))


def _bus_bytes(operation: str, at: Mapping[str, float]) -> float:
    """Bytes on the busiest link (nccl-tests, doc/PERFORMANCE.md)."""
    ranks = at["ranks_per_node"] * at["nodes"]
    around = (ranks - 1) / ranks
    shares = {"all_reduce": 2 * around, "all_gather": around, "reduce_scatter": around, "all_to_all": around}
    return shares.get(operation, 1.0) * at["size_bytes"]
