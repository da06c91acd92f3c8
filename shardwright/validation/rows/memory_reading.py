"""What a source means by its peak memory: which reading, and of which devices."""

import re
from typing import Literal, NamedTuple

from shardwright.specs import Estimate, Plan
from shardwright.validation.table import TableRow

_Reading = Literal["allocated", "reserved", "device"]

_STATED: dict[str, _Reading] = {"allocated": "allocated", "reserved": "reserved", "nvidia-smi": "device"}
_IN_NOTES = re.compile(
    r"\b(?:peak[_ ])?mem(?:ory)?(?:_usage)?\b[^;]*?\b(allocated|reserved|nvidia-smi)\b", re.IGNORECASE
)
_FAMILIES: dict[str, _Reading] = {
    # metrics of its trainer: max_memory_reserved
    "torchtitan": "reserved",
    # "Peak reserved" of its log, which its benchmark table carries on
    "nanotron": "reserved",
}
# Its log prints torch.cuda.max_memory_reserved as "memory(GiB)", with either of its trainers.
_SWIFT = re.compile(r"swift", re.IGNORECASE)
_IN_WORDS = {
    "allocated": "peak memory read as what tensors occupy",
    "reserved": "peak memory read as what torch's allocator reserves",
    "device": "peak memory read as nvidia-smi shows it",
}


class MemoryReading(NamedTuple):
    """`first_node`: read on the first node alone, which the later pipeline stages do not run on."""

    kind: _Reading
    first_node: bool

    def of(self, estimate: Estimate, plan: Plan, devices_per_host: int) -> float:
        """The bytes that the source would read on the device that needs most."""
        ranks_per_stage = plan.mesh.ranks // plan.mesh.pp
        seen = -(-devices_per_host // ranks_per_stage) if self.first_node else plan.mesh.pp
        parts = estimate.memory[:seen]
        return max(part.total if self.kind == "device" else float(getattr(part, self.kind)) for part in parts)

    def __str__(self) -> str:
        return _IN_WORDS[self.kind] + (", on the first node" if self.first_node else "")


def reading_of_row(row: TableRow, family: str) -> MemoryReading | None:
    """The reading that the row states, in its column or its notes; else that of its software; else nvidia-smi's figure, because
    people who state whole gigabytes read it.

    None for torchtune: its parameters, gradients and optimizer state are all in 16 bits, which the cost model does not
    describe. The interactive sessions of bigscience's tr3m-1B3 table saw only the node that they ran on. Evidence: micro
    batches that ran out of memory there (pp 2 and 4, micro batch 8, 16 GB) needed it on the last stage, while the memory
    noted for half the micro batch would have left room to double.
    """
    if family == "torchtune" and row.memory_reading is None:
        return None
    noted = _IN_NOTES.search(row.notes or "")
    stated = row.memory_reading or (noted[1].lower() if noted else None)
    usual = "reserved" if _SWIFT.search(row.framework or "") else _FAMILIES.get(family, "device")
    reading = _STATED[stated] if stated else usual
    return MemoryReading(reading, first_node="tr3m-1b3.md" in (row.source or "").lower())


def memory_assumption(reading: MemoryReading | None) -> str:
    """In words, how a peak memory is read."""
    return str(reading) if reading else "peak memory not compared: optimizer state in 16 bits is not available"
