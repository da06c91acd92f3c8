"""Measures this machine, or the launch that this process is part of, into a profile file."""

from typing import TYPE_CHECKING

from shardwright.lazy import lazy_names

from .machine import local_cluster, resolve_cluster
from .profile_options import ProfileOptions, read_formats

if TYPE_CHECKING:
    from .as_launched import MeasuredProfile, run_profile

__all__ = ["MeasuredProfile", "ProfileOptions", "local_cluster", "read_formats", "resolve_cluster", "run_profile"]

# measuring imports torch; asking for a cluster must not
__getattr__ = lazy_names(__name__, {"MeasuredProfile": ".as_launched", "run_profile": ".as_launched"})
