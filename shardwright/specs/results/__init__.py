"""What a plan gives: the estimate of its step and memory, the simulated timeline, and what a run measured or a dry run traced."""

from .dry_run import DryRun, Traced, TracedRank, TracedTraffic, TrafficAxis, UnchargedTraffic
from .estimate import Estimate, Interval, MemoryBytes, StepSeconds
from .measurement import Fingerprint, Measurement, StepRecord, read_measurement
from .timeline import Lane, MemoryCurve, Span, Timeline

__all__ = [
    "DryRun",
    "Estimate",
    "Fingerprint",
    "Interval",
    "Lane",
    "Measurement",
    "MemoryBytes",
    "MemoryCurve",
    "Span",
    "StepRecord",
    "StepSeconds",
    "Timeline",
    "Traced",
    "TracedRank",
    "TracedTraffic",
    "TrafficAxis",
    "UnchargedTraffic",
    "read_measurement",
]
