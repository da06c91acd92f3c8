"""What a plan gives: the estimate of its step and memory, the simulated timeline, and what a run measured."""

from .estimate import Estimate, Interval, MemoryBytes, StepSeconds
from .measurement import Fingerprint, HeldBytes, Measurement, OffloadMeasurement, StepRecord, read_measurement
from .timeline import Lane, MemoryCurve, Span, Timeline

__all__ = [
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
    "read_measurement",
]
