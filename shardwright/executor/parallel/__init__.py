"""The application of a plan: tensor parallelism, sharding, recomputation and what leaves the device, joined into an engine
for one step."""

from .building import build_engine
from .compiled import check_compile, compiles
from .engine import Engine
from .precision import COMPUTE_DTYPES, SMALLEST_SCALE, LossScale

__all__ = [
    "COMPUTE_DTYPES",
    "SMALLEST_SCALE",
    "Engine",
    "LossScale",
    "build_engine",
    "check_compile",
    "compiles",
]
