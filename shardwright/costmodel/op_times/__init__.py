"""Durations of operations: the interface that every duration comes through (`OpTimes`), and its implementations.

These are data sheets with the algorithms of NCCL and gloo, fits of measured points, and the constants that no data
sheet gives.
"""

from . import constants, protocol
from .between_groups import Crossing, ReplicaExchange
from .choice import op_times
from .collectives import Collectives, reduces_in_switch, share_of_links
from .constants import CALIBRATED, Constants, Value
from .datasheet import CatalogTimes
from .fitting import expected_errors, fit_curve, fitted, left_out_errors
from .measured import SUSTAINED_SHARE
from .operand_formats import OPERANDS, Operand, cast_bytes, cast_variant
from .overlap import Exposed, exposed_beside, overlap_saving_seconds, slowdown_beside
from .passes import (
    ATTENTION_BACKWARD,
    CLIP_PASSES,
    FOREACH_UPDATE_PASSES,
    OPERATOR_PASSES,
    UPDATE_PASSES,
    operator_passes,
    score_passes,
)
from .protocol import CollectiveName, MatmulPart, Operator, OpTimes

__all__ = [
    "ATTENTION_BACKWARD",
    "CALIBRATED",
    "CLIP_PASSES",
    "FOREACH_UPDATE_PASSES",
    "OPERANDS",
    "OPERATOR_PASSES",
    "SUSTAINED_SHARE",
    "UPDATE_PASSES",
    "CatalogTimes",
    "CollectiveName",
    "Collectives",
    "Constants",
    "Crossing",
    "Exposed",
    "MatmulPart",
    "OpTimes",
    "Operand",
    "Operator",
    "ReplicaExchange",
    "Value",
    "cast_bytes",
    "cast_variant",
    "constants",
    "expected_errors",
    "exposed_beside",
    "fit_curve",
    "fitted",
    "left_out_errors",
    "op_times",
    "operator_passes",
    "overlap_saving_seconds",
    "protocol",
    "reduces_in_switch",
    "score_passes",
    "share_of_links",
    "slowdown_beside",
]
