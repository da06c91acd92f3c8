"""A plan applied: tensor parallelism, sharding, pipeline and recomputation, joined into the engine that computes one step."""

from .engine import Engine, build_engine
from .split_backward import check_split_backward

__all__ = ["Engine", "build_engine", "check_split_backward"]
