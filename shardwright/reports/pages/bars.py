"""Steps by cause and devices by part, as stacked bars."""

from collections.abc import Iterable, Sequence

from shardwright.costmodel import nodes_of_ranks
from shardwright.costmodel.op_times import CALIBRATED
from shardwright.costmodel.tables import usable_bytes
from shardwright.reports.charts import CAUSES, PARTS, Bars, Mark, Part
from shardwright.specs import ClusterSpec, Estimate, StepSeconds


def step_bars(
    steps: Sequence[tuple[str, StepSeconds]], *, marks: tuple[Mark, ...] = (), work: Sequence[float] = ()
) -> Bars:
    """One bar for each (name, step), by cause; only causes that take time somewhere. `work` divides the seconds of each."""
    shares = work or [1.0] * len(steps)
    values = {
        cause: tuple(getattr(step, cause) / share for (_, step), share in zip(steps, shares, strict=True))
        for cause in CAUSES
    }
    parts = tuple(Part(_words(cause), cause, found) for cause, found in values.items() if any(found))
    rows = tuple(name for name, _ in steps)
    return Bars(axis="seconds of one step", unit="s", rows=rows, parts=parts, marks=marks, share=len(steps) == 1)


def memory_bars(estimate: Estimate, cluster: ClusterSpec) -> Bars:
    """What fills a device of each pipeline rank at its peak."""
    values = {part: tuple(getattr(memory, part) for memory in estimate.memory) for part in PARTS}
    return Bars(
        axis="one device at its peak",
        unit="B",
        rows=tuple(estimate.rank_name(rank).removeprefix("pipeline ") for rank in range(len(estimate.memory))),
        parts=tuple(Part(_words(part), part, sizes) for part, sizes in values.items() if any(sizes)),
        marks=memory_marks(estimate, cluster, range(len(estimate.memory))),
    )


def memory_marks(estimate: Estimate, cluster: ClusterSpec, ranks: Iterable[int]) -> tuple[Mark, ...]:
    """The usable memory and the whole memory of the devices of these ranks, each size once."""
    nodes = nodes_of_ranks(estimate, cluster)
    devices = list(
        {(nodes[rank].device.name, nodes[rank].device.memory_bytes): nodes[rank].device for rank in ranks}.values()
    )
    several = len(devices) > 1
    return tuple(
        Mark(f"{what}{f' of {device.name}' if several else ''}", size, colour)
        for device in devices
        for what, size, colour in (
            ("usable", usable_bytes(device, CALIBRATED), "limit"),
            ("capacity", float(device.memory_bytes), "other"),
        )
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
