"""The seconds of collectives, by the library that runs them: NCCL between GPUs, gloo between CPUs."""

from .gloo import gloo_seconds
from .nccl import Collectives, reduces_in_switch, share_of_links

__all__ = ["Collectives", "gloo_seconds", "reduces_in_switch", "share_of_links"]
