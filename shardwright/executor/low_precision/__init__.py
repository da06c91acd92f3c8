"""Linears in 8 bits: the arithmetic, the linears of a model that use it, and where it runs."""

from .check import check_linear_precision
from .linears import Scaling, scales_layer
from .scaled import scaled_linear

__all__ = ["Scaling", "check_linear_precision", "scaled_linear", "scales_layer"]
