from typing import get_args

from .finding import Finding, Part
from .machine import compiler, disks, host, launchers, limits, profile
from .packages import packages, solvers
from .torch_here import torch_here


def examine() -> list[Finding]:
    """Return what is there, limited or missing, part by part. Nothing is installed, changed or written."""
    found = [*packages(), solvers(), host(), profile(), *torch_here(), *disks(), *limits(), compiler(), *launchers()]
    parts = get_args(Part)
    return sorted(found, key=lambda one: parts.index(one.part))
