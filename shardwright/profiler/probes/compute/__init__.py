"""Probes of compute: matmuls, attention, memory-bound operators, casts, optimizer steps, launches, sustained load, and real
layers."""

from .defaults import default_figures, default_probes
from .layer_check import check_layer
from .sharding import ShardingProbe
from .sustained import SustainedMatmulProbe

__all__ = ["ShardingProbe", "SustainedMatmulProbe", "check_layer", "default_figures", "default_probes"]
