"""Bitwise comparison of a plan with shares off the device and the same plan without."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.offload.contents import Contents
from shardwright.executor.offload.resources.ledger import Kind, Place
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import build_engine
from shardwright.executor.training.optimizer import host_optimizer
from shardwright.specs.plan import Offload, Stage
from tests.parity.updates import batch, own_share

STEPS = 3


class Trained(NamedTuple):
    """What a rank holds after its steps: its shards by name, losses and gradient norms, and the engine's bytes by (kind, place)."""

    shards: dict[str, Tensor]
    losses: list[float]
    norms: list[float]
    held: dict[tuple[Kind, Place], int]
    host_limit_bytes: float
    host_peak_bytes: int


def offloaded(plan_file: PlanFile, *, activations: float = 0, **shares: float) -> PlanFile:
    """The same plan with other shares off the device."""
    stages = tuple(
        Stage(layers=tuple(run.model_copy(update={"activation_offload": activations}) for run in stage.layers))
        for stage in plan_file.plan.stages
    )
    plan = plan_file.plan.model_copy(update={"offload": Offload(**shares), "stages": stages})
    return plan_file.model_copy(update={"plan": plan})


def train(
    plan_file: PlanFile,
    clip_norm: float | None,
    folder: Path,
    sabotage: Callable[[], None] | None = None,
    evaluates: bool = False,
) -> Trained:
    """Take `STEPS` steps of the plan's optimizer as one rank of a world that is up. `evaluates`: losses of an evaluation follow each."""
    if sabotage is not None:
        sabotage()
    engine = build_engine(plan_file, device=torch.device("cpu"), seed=7, offload_folder=folder)
    options = RunOptions(out=folder, steps=STEPS, clip_norm=clip_norm)
    optimizer = host_optimizer(engine.model_parts, plan_file.training.optimizer, options, engine.offload)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.set_learning_rate(1e-2)
        losses.append(float(engine.forward_backward(*own_share(engine, *batch(step, plan_file)))))
        norms.append(engine.clip_gradients(clip_norm))
        optimizer.step()
        engine.zero_gradients()
        if evaluates:
            losses += [engine.evaluate(*own_share(engine, *batch(STEPS, plan_file)))[0] for _ in range(2)]
    shards = {}
    contents = Contents(engine.offload, optimizer.device_state) if engine.offload else None
    for part in engine.model_parts:
        for name, parameter in part.named_parameters():
            held = contents.of(parameter) if contents else None
            value = held[""] if held else parameter.detach()
            shards[name] = (value.to_local() if isinstance(value, DTensor) else value).clone()
    ledger = engine.offload.ledger if engine.offload else None
    return Trained(
        shards,
        losses,
        norms,
        dict(ledger.peaks) if ledger else {},
        ledger.limits["host"] if ledger else 0.0,
        ledger.peak_bytes("host") if ledger else 0,
    )
