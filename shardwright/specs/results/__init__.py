"""What a plan gives: the estimate of its step and memory, the simulated timeline, and what a run measured or a dry run traced."""

from .dry_run import DryRun, Traced, TracedRank, TracedTraffic, TrafficAxis, UnchargedTraffic
from .estimate import Estimate, Interval, MemoryBytes, StepSeconds
from .measurement import (
    CheckpointMeasurement,
    Fingerprint,
    HeldBytes,
    Measurement,
    OffloadMeasurement,
    StepRecord,
    read_measurement,
)
from .timeline import Lane, MemoryCurve, Span, Timeline

__all__ = [
    "CheckpointMeasurement",
    "DryRun",
    "Estimate",
    "Fingerprint",
    "HeldBytes",
    "Interval",
    "Lane",
    "Measurement",
    "MemoryBytes",
    "MemoryCurve",
    "OffloadMeasurement",
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
