"""One row of a table of measured runs, read once: what it measured, its model, cluster, training and possible plans."""

from .cluster import StandardNode
from .measured_run import MeasuredRun, SkippedRun, measured_run
from .metrics import MeasuredStep, Metric, NoStep
from .not_modelled import skip_reason
from .trainable import trains_adapters

__all__ = [
    "MeasuredRun",
    "MeasuredStep",
    "Metric",
    "NoStep",
    "SkippedRun",
    "StandardNode",
    "measured_run",
    "skip_reason",
    "trains_adapters",
]
