"""Whole measuring runs on a machine whose time is a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardwright.profiler.session.measure import Hooks, measure_profile
from shardwright.profiler.timing.probe import Probe
from shardwright.specs.profile import LayerCheck, Profile
from tests.profiler.virtual import MadeUpFigure, MadeUpProbe, VirtualClock, VirtualMachine, request

LAYER = LayerCheck(
    model="tiny",
    seq_len=8,
    micro_batch=1,
    format="fp32",
    recompute="none",
    forward_seconds=1.0,
    backward_seconds=2.0,
    activation_bytes=100.0,
    predicted_forward_seconds=1.1,
    predicted_backward_seconds=2.1,
    predicted_activation_bytes=90.0,
)


class Bench:
    """A clock, a machine on it, and probes."""

    def __init__(self, **machine: Any) -> None:
        self.clock = VirtualClock()
        self.machine = VirtualMachine(self.clock, **machine)

    def probe(self, **fields: Any) -> MadeUpProbe:
        return MadeUpProbe(self.clock, **fields)

    def hooks(self, **fields: Any) -> Hooks:
        return Hooks(clock=self.clock, **fields)

    def measure(self, folder: Path, *probes: Probe, figures: Sequence[MadeUpFigure] = (), **others: Any) -> Profile:
        hooks = others.pop("hooks", self.hooks())
        return measure_profile(request(folder, **others), self.machine, probes, figures, hooks=hooks)
