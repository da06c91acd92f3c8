"""A plan applied to a model within a user's own training loop."""

from .parallel_model import ParallelModel, StepOptimizer, parallelize

__all__ = ["ParallelModel", "StepOptimizer", "parallelize"]
