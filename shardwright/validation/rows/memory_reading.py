"""What a source means by its peak memory: which reading, and of which devices."""

import re
from typing import Literal, NamedTuple

from shardwright.specs import Estimate, MemoryBytes, NodeGroup, Plan
from shardwright.validation.table import TableRow

from .stack import HF_TRAINERS
from .trainable import trains_adapters

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
# Trainers of Hugging Face pad a batch to its longest sequence and no further, unless samples are packed or padding is left out.
_HUGGING_FACE = re.compile(rf"(?!.*megatron).*(?:{HF_TRAINERS})", re.IGNORECASE)
_ONE_LENGTH = re.compile(
    r"\bpack(?:ed|ing)\b|padding[_ -]?free|\bpad(?:ded|s|ding)? to (?:max|the max|full)", re.IGNORECASE
)
_FINE_TUNING = re.compile(r"fine-?tun|\bsft\b|swift", re.IGNORECASE)
# What torch's allocator then holds beyond one length, over what the passes occupy: the mean that calibration/allocator/ragged_lengths.py prints.
_RAGGED_SLACK = 1.5
_IN_WORDS = {
    "allocated": "peak memory read as what tensors occupy",
    "reserved": "peak memory read as what torch's allocator reserves",
    "device": "peak memory read as nvidia-smi shows it",
}


class MemoryReading(NamedTuple):
    """`first_node`: read on the first node alone, which the later pipeline stages do not run on. `ragged`: sequences had many
    lengths, so that the allocator held blocks of many sizes."""

    kind: _Reading
    first_node: bool
    ragged: bool = False

    def of(self, estimate: Estimate, plan: Plan, node: NodeGroup) -> float:
        """The bytes that the source would read on the device that needs most."""
        ranks_per_stage = plan.mesh.ranks // plan.mesh.pp
        seen = -(-node.devices_per_host // ranks_per_stage) if self.first_node else plan.mesh.pp
        return max(self._on(part, node.device.memory_bytes) for part in estimate.memory[:seen])

    def _on(self, part: MemoryBytes, memory_bytes: float) -> float:
        """Where the device is full, the allocator gives free blocks back."""
        if self.kind == "allocated":
            return part.allocated
        outside = 0.0 if self.kind == "device" else part.communicators + part.context
        tensors = part.total - part.allocator_slack - outside
        unused = part.allocator_slack + _RAGGED_SLACK * self.ragged * (part.activations + part.logits)
        return min(tensors + unused, max(tensors, memory_bytes - outside))

    def __str__(self) -> str:
        node = ", on the first node" if self.first_node else ""
        return _IN_WORDS[self.kind] + node + (", with blocks of many lengths" if self.ragged else "")


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
    return MemoryReading(
        reading,
        first_node="tr3m-1b3.md" in (row.source or "").lower(),
        ragged=reading != "allocated" and _is_ragged(row),
    )


def _is_ragged(row: TableRow) -> bool:
    """Whether a trainer of Hugging Face fine-tuned on samples as long as they are."""
    if not _HUGGING_FACE.match(row.framework or "") or _ONE_LENGTH.search(row.notes or ""):
        return False
    return trains_adapters(row) or bool(_FINE_TUNING.search(f"{row.framework}; {row.reason or ''}; {row.notes or ''}"))


def memory_assumption(reading: MemoryReading | None) -> str:
    """In words, how a peak memory is read."""
    return str(reading) if reading else "peak memory not compared: optimizer state in 16 bits is not available"
