"""Probes of compute: matmuls, attention, memory-bound operators, optimizer steps, launches, and real layers."""

from .defaults import default_figures, default_probes
from .layer_check import check_layer
from .sharding import ShardingProbe

__all__ = ["ShardingProbe", "check_layer", "default_figures", "default_probes"]
