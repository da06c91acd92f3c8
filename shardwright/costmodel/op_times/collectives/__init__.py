"""The seconds of collectives, by the library that runs them: NCCL between GPUs, gloo between CPUs."""

from .gloo import gloo_seconds
from .nccl import Collectives, meshed_share, reduces_in_switch

__all__ = ["Collectives", "gloo_seconds", "meshed_share", "reduces_in_switch"]
