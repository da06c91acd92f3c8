"""The application of a plan: tensor parallelism, sharding, pipeline and
recomputation, joined into an engine for one step."""

from .chunked_loss import check_loss_chunks
from .compiled import check_compile, compiles
from .engine import Engine, build_engine
from .loss import IGNORED_LABEL, LOSS, LossFunction
from .precision import COMPUTE_DTYPES, SMALLEST_SCALE, LossScale
from .split_backward import check_split_backward

__all__ = [
    "COMPUTE_DTYPES",
    "IGNORED_LABEL",
    "LOSS",
    "SMALLEST_SCALE",
    "Engine",
    "LossFunction",
    "LossScale",
    "build_engine",
    "check_compile",
    "check_loss_chunks",
    "check_split_backward",
    "compiles",
]
