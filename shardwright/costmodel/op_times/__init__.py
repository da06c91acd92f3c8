"""The seam that every duration comes through (`OpTimes`) and what stands behind it: data sheets with NCCL's and gloo's algorithms, fits of
measured points, and the constants that no data sheet gives."""

from . import constants
from .choice import op_times
from .collectives import Collectives, meshed_share, reduces_in_switch
from .constants import CALIBRATED, Constants, Value
from .datasheet import CatalogTimes
from .fitting import expected_errors, fit_curve, fitted, left_out_errors
from .operand_formats import OPERANDS
from .overlap import overlap_saving_seconds, slowdown_beside
from .protocol import CollectiveName, MatmulPart, Operator, OpTimes
from .straggler import largest_of

__all__ = [
    "CALIBRATED",
    "OPERANDS",
    "CatalogTimes",
    "CollectiveName",
    "Collectives",
    "Constants",
    "MatmulPart",
    "OpTimes",
    "Operator",
    "Value",
    "constants",
    "expected_errors",
    "fit_curve",
    "fitted",
    "largest_of",
    "left_out_errors",
    "meshed_share",
    "op_times",
    "overlap_saving_seconds",
    "reduces_in_switch",
    "slowdown_beside",
]
