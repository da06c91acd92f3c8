"""fp16 with a scaled loss: a divided run against torch.amp.GradScaler in one process, over steps that overflow and steps that do not."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import Engine, build_engine, clipping, engine, precision
from shardwright.executor.parallel.precision import LossScale
from shardwright.executor.training.optimizer import host_optimizer
from shardwright.specs.trainable import Trainable
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import LEARNING_RATE, SEED, batch, full_tensors, own_share, reference_model
from tests.parity.worlds import run_again, run_in_turn

STEPS, START, GROWTH_STEPS, CLIP_NORM = 8, 2.0**21, 2, 1.0
"""The first steps overflow at this scale, and two good ones in a row double it, so that it overflows again."""
TOLERANCE = 0.01
"""fp16 keeps 11 bits (relative steps of 5e-4); sums of such products in another order differ by several of them over the steps."""
QWEN3 = model_config("qwen3", initializer_range=0.05)
MIXTRAL = FAMILIES["mixtral"]
ON_TWO = {
    "zero 3": plan_file(QWEN3, plan((layers(zero=3),), dp_shard=2), compute="fp16"),
    "tp": plan_file(QWEN3, plan((layers(),), tp=2), compute="fp16"),
    "cp": plan_file(QWEN3, plan((layers(zero=3),), cp=2, context_parallel="ring"), compute="fp16"),
    "pp": plan_file(QWEN3, plan((layers(1),), (layers(1),), pp=2), compute="fp16"),
    "zb-h1, loss in chunks": plan_file(
        QWEN3,
        plan((layers(1),), (layers(1),), pp=2, microbatches=4, schedule="zb-h1"),
        compute="fp16",
        loss_chunks=2,
    ),
}
ON_FOUR = {
    "pp x zero 2": plan_file(QWEN3, plan((layers(1, zero=2),), (layers(1, zero=2),), pp=2, dp_shard=2), compute="fp16"),
    "tp x zero 3": plan_file(QWEN3, plan((layers(zero=3, recompute="full"),), tp=2, dp_shard=2), compute="fp16"),
}
EXPERTS = {"ep": plan_file(MIXTRAL, plan((layers(zero=3),), dp_shard=2, ep=2), compute="fp16")}
OFFLOADED = plan_file(QWEN3, plan((layers(),), offload=True), compute="fp16")


class Scaled(NamedTuple):
    """Updates by name, and for each step the scale, the norm (None: skipped) and the loss."""

    updates: dict[str, Tensor]
    scales: list[float]
    norms: list[float | None]
    losses: list[float]


def by_grad_scaler(given: PlanFile) -> Scaled:
    """One process: fp32 weights, a copy in fp16 that computes, torch's GradScaler, clipping and SGD.

    As under DistributedDataParallel, the loss of a rank is the mean over its own tokens, and gradients of ranks are averaged in fp32.
    """
    model = reference_model(given)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler("cpu", init_scale=START, growth_interval=GROWTH_STEPS)
    scales, norms, losses = [], list[float | None](), []
    for step in range(STEPS):
        inputs, labels = batch(step, given)
        mesh, tokens, total = given.plan.mesh, int((labels != -100).sum()), 0.0
        for own, targets in zip(inputs.chunk(mesh.dp), labels.chunk(mesh.dp), strict=True):
            half = copy.deepcopy(model)
            for parameter in half.parameters():
                parameter.data, parameter.grad = parameter.data.half(), None
            logits = half(input_ids=own).logits.float().flatten(0, 1)
            summed = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
            torch.autograd.backward(scaler.scale(summed * (mesh.data_ranks / tokens)))
            for parameter, computed in zip(model.parameters(), half.parameters(), strict=True):
                assert computed.grad is not None
                gradient = computed.grad.float() / mesh.data_ranks
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            total += float(summed.detach()) / tokens
        scales.append(scaler.get_scale())
        scaler.unscale_(optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM))
        norms.append(norm if math.isfinite(norm) else None)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(total)
    return Scaled(
        {name: value.detach() - before[name] for name, value in model.named_parameters()}, scales, norms, losses
    )


def _train(given: PlanFile, folder: Path, sabotage: Callable[[], None] | None = None) -> Scaled:
    precision._GROWTH_STEPS = GROWTH_STEPS
    if sabotage is not None:
        sabotage()
    built = build_engine(given, device=torch.device("cpu"), seed=SEED, offload_folder=folder)
    built.loss_scale = LossScale(value=START)
    options = RunOptions(out=folder, learning_rate=LEARNING_RATE, weight_decay=0, clip_norm=CLIP_NORM)
    optimizer = host_optimizer(built.model_parts, "sgd", options, built.offload, scaled=True)
    before = full_tensors(built)
    scales, norms, losses = [], list[float | None](), []
    for step in range(STEPS):
        optimizer.set_learning_rate(LEARNING_RATE)
        scales.append(built.loss_scale.value)
        losses.append(float(built.forward_backward(*own_share(built, *batch(step, given)))))
        norm = built.clip_gradients(CLIP_NORM)
        taken = built.accepts(norm)
        norms.append(norm if taken else None)
        if taken:
            optimizer.step()
        built.zero_gradients()
    return Scaled({name: value - before[name] for name, value in full_tensors(built).items()}, scales, norms, losses)


def error(ranks: list[Scaled], expected: Scaled) -> float:
    """The largest relative error of an update; infinite where scales or skipped steps differ on some rank."""
    worst = 0.0
    for run in ranks:
        skipped = [norm is None for norm in run.norms]
        if run.scales != expected.scales or skipped != [norm is None for norm in expected.norms]:
            return math.inf
        for name, update in run.updates.items():
            found = float((update - expected.updates[name]).norm() / expected.updates[name].norm())
            worst = max(worst, math.inf if math.isnan(found) else found)
    return worst


@pytest.mark.parametrize(("size", "plans"), [(2, ON_TWO), (4, ON_FOUR), (2, EXPERTS)], ids=["two", "four", "experts"])
def test_updates_scales_and_skipped_steps_are_those_of_grad_scaler(
    size: int, plans: dict[str, PlanFile], tmp_path: Path
) -> None:
    found = run_in_turn(size, _train, {name: (given, tmp_path) for name, given in plans.items()})
    for name, ranks in found.items():
        expected = by_grad_scaler(plans[name])
        assert expected.norms[0] is None, "the first step overflows"
        assert STEPS - expected.norms.count(None) >= 3
        assert any(later > earlier for earlier, later in zip(expected.scales, expected.scales[1:], strict=False))
        assert error(ranks, expected) <= TOLERANCE, name
        for run in ranks:
            assert run.losses == pytest.approx(expected.losses, rel=5e-3), name


def test_updates_of_the_host_wait_for_the_decision(tmp_path: Path) -> None:
    expected = by_grad_scaler(OFFLOADED)
    assert error(run_again(1, _train, OFFLOADED, tmp_path), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["tp", "pp"])
def test_adapters_beside_frozen_weights_in_fp16(name: str, tmp_path: Path) -> None:
    adapters = Trainable(kind="lora", rank=2, targets=("attention", "mlp"))
    one, split = (
        plan_file(QWEN3, divided, compute="fp16", trainable=adapters)
        for divided in (plan((layers(),)), ON_TWO[name].plan)
    )
    (expected,) = run_again(1, _train, one, tmp_path)
    assert None in expected.norms
    assert error(run_again(2, _train, split, tmp_path), expected) <= TOLERANCE


def each_rank_decides_alone() -> None:
    original = clipping.gradient_norm

    def own_norm(*args: object, **options: object) -> float:
        reduce, dist.all_reduce = dist.all_reduce, lambda *_args, **_options: None
        try:
            return original(*args, **options)  # type: ignore[arg-type]
        finally:
            dist.all_reduce = reduce

    engine.gradient_norm = own_norm  # type: ignore[attr-defined]


def apply_what_is_not_finite() -> None:
    def always(self: Engine, norm: float) -> bool:
        accepted(self, norm)
        return True

    accepted, Engine.accepts = Engine.accepts, always  # type: ignore[method-assign]


def leave_the_scale_in() -> None:
    engine.scale_gradients = lambda *_args: None  # type: ignore[attr-defined]


def never_grow() -> None:
    precision._GROWTH_STEPS = 2000


@pytest.mark.parametrize("fault", [each_rank_decides_alone, apply_what_is_not_finite, leave_the_scale_in, never_grow])
def test_a_fault_shows(fault: Callable[[], None], tmp_path: Path) -> None:
    given = ON_TWO["pp"]
    assert error(run_again(2, _train, given, tmp_path, fault), by_grad_scaler(given)) > 5 * TOLERANCE
