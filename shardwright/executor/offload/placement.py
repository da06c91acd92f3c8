"""What a plan's shares mean for the shards of a rank: which of their elements lie where, in how large buckets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.specs import OPTIMIZER_STATES, Offload, OptimizerName

from .division import ALIGNED, aligned, leading_parts
from .shards import Shard
from .spaces import PAGE_ELEMENTS, Piece, lay_out

_ELEMENT_BYTES = 4
_BUCKETS = 16
_MOST_BUCKET_ELEMENTS = 2**20
"""A bucket of 4 MiB of each array: large enough for the rate of a drive, small enough that seven buffers displace little from the host."""
_UPDATES_AT_ONCE = 2
"""One bucket is read from the drives or written to them while another is updated."""


@dataclass(frozen=True)
class Placement:
    """The pieces of each place and the buffers between them.

    `in_memory`, `on_drive`: pieces off the device. `bucket_elements`: elements of a bucket and of a buffer. `staging`, `reading`,
    `updating`: buffers for sums of gradients, for parameters that come from a drive, and for updates of what lies there.
    """

    in_memory: tuple[Piece, ...]
    on_drive: tuple[Piece, ...]
    bucket_elements: int
    staging: int
    reading: int
    updating: int


@dataclass(frozen=True)
class Room:
    """The bytes of a rank that the plan states: on the host and on its drives."""

    host_bytes: float
    nvme_bytes: float


def place(shards: Sequence[Shard], offload: Offload, optimizer: OptimizerName, room: Room, *, sums: bool) -> Placement:
    """Place the elements of `shards`, given in the order in which backward passes finish their gradients.

    With f of N elements off the device, q of them on drives, s states and b bytes of buffers, the host holds 4 h + 4 (1 + s)(h - d) + b
    bytes of h = f N elements, d = q h of them on drives, and 4 h more where passes read a copy. That is at most what the plan states, so b lowers h: what then is left stays on
    the device. `sums`: gradients of several microbatches are added on the host.
    """
    states = OPTIMIZER_STATES[optimizer]
    kept_bytes = _ELEMENT_BYTES * (1 + states)
    elements = sum(shard.elements for shard in shards)
    fraction, on_drives = offload.optimizer_fraction, offload.nvme_fraction
    bucket = _bucket_elements(fraction * elements)
    counts = (int(sums), int(on_drives > 0), _UPDATES_AT_ONCE * (1 + states) if on_drives else 0)
    buffer_bytes = sum(counts) * bucket * _ELEMENT_BYTES
    # of the gradient, and of the parameter that passes read beside a delayed update
    beside_bytes = _ELEMENT_BYTES * (1 + offload.delayed_update)
    each = beside_bytes + kept_bytes * (1 - on_drives)
    limit = min(room.host_bytes, fraction * elements * each) - buffer_bytes
    hosted = max(0, min(math.floor(limit / each), math.floor(fraction * elements)))
    drive = _pages(min(on_drives * hosted, room.nvme_bytes / kept_bytes))
    hosted = max(0, min(hosted, math.floor((limit + kept_bytes * drive) / (beside_bytes + kept_bytes))))
    sizes = [aligned(shard.elements) for shard in shards]
    off_device = leading_parts(sizes, hosted - hosted % ALIGNED)
    off_host = leading_parts(off_device, min(drive, sum(off_device)))
    ends = [
        (shard, min(low, shard.elements), min(high, shard.elements))
        for shard, low, high in zip(shards, off_host, off_device, strict=True)
    ]
    return Placement(
        in_memory=tuple(lay_out([(shard, low, high) for shard, low, high in ends])),
        on_drive=tuple(lay_out([(shard, 0, low) for shard, low, _ in ends])),
        bucket_elements=bucket,
        staging=counts[0],
        reading=counts[1],
        updating=counts[2],
    )


def streamed_layers(count: int, fraction: float) -> list[bool]:
    """Return which of a stage's `count` layers get their weights from the host for each pass: `fraction` of them, evenly spread."""
    return [math.floor((index + 1) * fraction) > math.floor(index * fraction) for index in range(count)]


def _bucket_elements(hosted: float) -> int:
    return max(PAGE_ELEMENTS, min(_MOST_BUCKET_ELEMENTS, _pages(hosted / _BUCKETS)))


def _pages(elements: float) -> int:
    """Return so many elements, rounded down to whole pages."""
    return math.floor(elements) // PAGE_ELEMENTS * PAGE_ELEMENTS
