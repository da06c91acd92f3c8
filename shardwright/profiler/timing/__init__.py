"""How work is timed: interfaces of work and machine, operands from memory, rounds of repeats, and simultaneous work."""

from .availability import available, tried
from .host_allocator import freed_memory_is_kept
from .live_bytes import Footprint, LiveBytes, footprint
from .machines import CpuMachine, machine_here
from .number_format import BYTES, random_tensor, torch_dtype, with_tf32
from .outcome import Outcome, TroubleError, attempt, message_line
from .probe import FigureProbe, JointWork, Machine, Probe, Sizes, UnavailableError, Work
from .reference import reference_work
from .rotation import rotated, rotated_bytes
from .sampling import Precision, Samples
from .side_by_side import beside, busy_bytes, busy_matmul
from .watch import Watch

__all__ = [
    "BYTES",
    "CpuMachine",
    "FigureProbe",
    "Footprint",
    "JointWork",
    "LiveBytes",
    "Machine",
    "Outcome",
    "Precision",
    "Probe",
    "Samples",
    "Sizes",
    "TroubleError",
    "UnavailableError",
    "Watch",
    "Work",
    "attempt",
    "available",
    "beside",
    "busy_bytes",
    "busy_matmul",
    "footprint",
    "freed_memory_is_kept",
    "machine_here",
    "message_line",
    "random_tensor",
    "reference_work",
    "rotated",
    "rotated_bytes",
    "torch_dtype",
    "tried",
    "with_tf32",
]
