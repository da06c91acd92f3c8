"""The machine and software of a run's measurement."""

import platform
from datetime import UTC, datetime

import torch

from shardwright.base import cpu_model
from shardwright.specs import Fingerprint


def read_fingerprint(device: torch.device) -> Fingerprint:
    """Return this machine, its software and the time."""
    return Fingerprint(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        host=platform.node(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
