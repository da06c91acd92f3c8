"""What a run's numbers were measured on."""

import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from shardwright.specs.measurement import Fingerprint


def read_fingerprint(device: torch.device) -> Fingerprint:
    """This machine, its software and the time."""
    return Fingerprint(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name(),
        host=platform.node(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _processor_name() -> str:
    """As Linux names it; elsewhere the kind of machine is all that Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
