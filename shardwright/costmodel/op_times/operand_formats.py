"""How operands of weight matmuls in 8 and 4 bits are made: the peak they run at, their bytes, and the passes it takes."""

from typing import NamedTuple

from shardwright.base import Number
from shardwright.specs import DeviceFormat, LinearFormat


class Operand(NamedTuple):
    """How one format is made of another, per element.

    `peak`: the device's peak that its matmuls run at. `needs`: a format of the devices that have such matmuls at all; those that
    scale blocks came with 4-bit ones (NVIDIA Blackwell, AMD CDNA 4). `scans`: the source is read once more before, for one scale of the whole tensor (Micikevicius et al. 2022, arXiv
    2209.05433). `bytes`: of the copy, its scales included. `again`: the second layout is made of the source once more, as
    scales of blocks along the inner axis do not turn with it (OCP Microscaling Formats 1.0, section 5.2; Rouhani et al. 2023,
    arXiv 2310.10537); else the first is transposed.
    """

    peak: DeviceFormat
    needs: DeviceFormat
    scans: bool
    bytes: float
    again: bool

    def first_bytes(self, source_bytes: Number, *, scan_is_fused: bool) -> Number:
        """Memory traffic of the first layout; a compiler finds the scale in the kernel that writes the source."""
        return source_bytes * (2 if self.scans and not scan_is_fused else 1) + self.bytes

    def second_bytes(self, source_bytes: Number) -> Number:
        """Memory traffic of the second layout; the scale of the whole tensor is known by then."""
        return (source_bytes if self.again else self.bytes) + self.bytes


OPERANDS: dict[LinearFormat, Operand] = {
    "fp8": Operand("fp8", "fp8", scans=True, bytes=1.0, again=False),
    # blocks of 32 share an 8-bit scale, blocks of 16 an 8-bit scale below one of the whole tensor
    "mxfp8": Operand("fp8", "fp4", scans=False, bytes=1.0 + 1 / 32, again=True),
    "nvfp4": Operand("fp4", "fp4", scans=True, bytes=0.5 + 1 / 16, again=True),
}
