"""A delayed update of the host's share equals its plain rule bit for bit: passes read what the update before left of that share."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.offload.contents import Contents
from shardwright.executor.offload.engine import OffloadEngine
from shardwright.executor.offload.hosted import InMemory
from shardwright.executor.offload.rule import Part, UpdateRule
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import Engine, build_engine
from shardwright.executor.training.optimizer import HostedOptimizer, host_optimizer
from shardwright.specs.plan import Offload, Plan
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import batch, own_share
from tests.parity.worlds import run_again

STEPS = 4
LLAMA = model_config("llama", layers=4, hidden_size=64, intermediate_size=96, vocab_size=1031)
FSDP = plan((layers(4, zero=3),), dp_shard=2)
CASES: dict[str, tuple[Plan, dict[str, float], float | None]] = {
    "fsdp": (FSDP, dict(optimizer_fraction=1), None),
    "half of the optimizer, clipped": (FSDP, dict(optimizer_fraction=0.5), 0.5),
    "tp x fsdp": (
        plan((layers(2, zero=2), layers(2, zero=3)), dp_shard=2, tp=2),
        dict(optimizer_fraction=0.25),
        None,
    ),
    "pp x fsdp": (
        plan((layers(2, zero=3),), (layers(2, zero=1),), pp=2, dp_shard=2, microbatches=2),
        dict(optimizer_fraction=1),
        0.5,
    ),
    "gradients and streamed weights": (
        plan((layers(4),), microbatches=4),
        dict(optimizer_fraction=1, gradient_fraction=1, parameter_fraction=0.5),
        None,
    ),
}

Found = tuple[dict[str, Tensor], list[float], dict[str, int]]
"""A rank's shards after all updates, its losses, and how many elements of each shard are the host's."""


def _file(name: str, *, delayed: bool) -> PlanFile:
    of, shares, _ = CASES[name]
    file = plan_file(LLAMA, of)
    offload = Offload(**shares, delayed_update=True) if delayed else Offload()
    training = file.training.model_copy(update={"optimizer": "adamw"})
    return file.model_copy(update={"training": training, "plan": of.model_copy(update={"offload": offload})})


def _built(file: PlanFile, clip_norm: float | None, folder: Path) -> tuple[Engine, HostedOptimizer]:
    engine = build_engine(file, device=torch.device("cpu"), seed=7, offload_folder=folder)
    options = RunOptions(out=folder, steps=STEPS, clip_norm=clip_norm)
    return engine, host_optimizer(engine.model_parts, file.training.optimizer, options, engine.offload)


def _passes(engine: Engine, optimizer: HostedOptimizer, file: PlanFile, step: int, clip_norm: float | None) -> float:
    optimizer.set_learning_rate(1e-2)
    loss = engine.forward_backward(*own_share(engine, *batch(step, file)))
    engine.clip_gradients(clip_norm)
    return float(loss)


def delayed(file: PlanFile, clip_norm: float | None, folder: Path, sabotage: Callable[[], None] | None = None) -> Found:
    if sabotage is not None:
        sabotage()
    engine, optimizer = _built(file, clip_norm, folder)
    losses = []
    for step in range(STEPS):
        losses.append(_passes(engine, optimizer, file, step, clip_norm))
        optimizer.step()
        engine.zero_gradients()
    assert engine.offload is not None
    contents = Contents(engine.offload, optimizer.device_state)
    shards = {}
    for part in engine.model_parts:
        for name, parameter in part.named_parameters():
            held = contents.of(parameter)
            shards[name] = _local(held[""] if held else parameter).clone()
    return shards, losses, {source.shard.name: source.device_start for source in engine.offload.sources()}


def reference(file: PlanFile, clip_norm: float | None, folder: Path, host: Sequence[dict[str, int]]) -> Found:
    """The rule, without offload: an update starts from what the one before left, and the host's elements are shown without it."""
    engine, optimizer = _built(file, clip_norm, folder)
    values = {name: _local(one) for part in engine.model_parts for name, one in part.named_parameters()}
    latest = {name: value.clone() for name, value in values.items()}
    losses = []
    for step in range(STEPS):
        losses.append(_passes(engine, optimizer, file, step, clip_norm))
        for name, value in values.items():
            value.copy_(latest[name])
        before, latest = latest, {}
        optimizer.step()
        for name, value in values.items():
            latest[name] = value.clone()
            delays = host[torch.distributed.get_rank()].get(name, 0)
            value.view(-1)[:delays] = before[name].view(-1)[:delays]
        engine.zero_gradients()
    return latest, losses, {}


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _runs(name: str, folder: Path, fault: Callable[[], None] | None = None) -> tuple[list[Found], list[Found]]:
    """With the engine, and by the rule."""
    of, _, clip_norm = CASES[name]
    own = run_again(of.mesh.ranks, delayed, _file(name, delayed=True), clip_norm, folder, fault)
    host = [starts for _, _, starts in own]
    return own, run_again(of.mesh.ranks, reference, _file(name, delayed=False), clip_norm, folder, host)


def _alike(own: list[Found], other: list[Found]) -> bool:
    return all(
        mine.keys() == theirs.keys()
        and all(torch.equal(mine[name], theirs[name]) for name in mine)
        and of_mine == of_theirs
        for (mine, of_mine, _), (theirs, of_theirs, _) in zip(own, other, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_rule(name: str, tmp_path: Path) -> None:
    own, other = _runs(name, tmp_path)
    assert any(starts for _, _, starts in own)
    assert _alike(own, other)


def read_the_latest() -> None:
    """Passes read parameters of which the update is under way or done."""

    def copy_up(self: InMemory, piece: object, target: Tensor) -> None:
        for bucket in self.buckets.all:
            assert bucket.update is None or bucket.update.result() is None
        low, high = piece.offset, piece.end  # type: ignore[attr-defined]
        target.copy_(self._space.parameters[low:high])

    InMemory.copy_up = copy_up  # type: ignore[method-assign]


def never_show_an_update() -> None:
    InMemory.show = lambda self, bucket: None  # type: ignore[method-assign]


def show_after_the_update() -> None:
    step = OffloadEngine.step

    def later(self: OffloadEngine) -> None:
        step(self)
        self.show_latest()

    OffloadEngine.step = later  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", [read_the_latest, never_show_an_update, show_after_the_update])
def test_a_fault_shows(fault: Callable[[], None], tmp_path: Path) -> None:
    own, other = _runs("fsdp", tmp_path, fault)
    assert not _alike(own, other)


def pending_updates(file: PlanFile, folder: Path) -> list[int]:
    """How many updates of the step before are under way when each backward pass ends, on a host that takes a while for each."""
    apply = UpdateRule.apply

    def slowly(self: UpdateRule, parts: Sequence[Part], learning_rate: float) -> None:
        time.sleep(0.05)
        apply(self, parts, learning_rate)

    UpdateRule.apply = slowly  # type: ignore[method-assign]
    engine, optimizer = _built(file, None, folder)
    assert engine.offload is not None
    found = []
    for step in range(2):
        optimizer.set_learning_rate(1e-2)
        engine.forward_backward(*own_share(engine, *batch(step, file)))
        buckets = [bucket for hosted in engine.offload._hosted for bucket in hosted.buckets.all]
        found.append(sum(bucket.update is not None and not bucket.update.done() for bucket in buckets))
        optimizer.step()
        engine.zero_gradients()
    assert len(buckets) > 4
    return found


def test_gradients_do_not_gather_on_the_device_beside_a_slow_host(tmp_path: Path) -> None:
    """A backward pass waits for the update whose gradients its own replace."""
    ((first, second),) = run_again(1, pending_updates, _file("gradients and streamed weights", delayed=True), tmp_path)
    assert first == second == 0
