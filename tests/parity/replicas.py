"""Training by replicas that agree approximately: under the engine, and in one process as plainly as the method is declared."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import build_engine
from shardwright.executor.replicas import compressed, local_steps
from shardwright.executor.replicas.buckets import buckets_of
from shardwright.executor.replicas.exchange import mean_over
from shardwright.executor.training.optimizer import host_optimizer
from shardwright.specs.plan import SENT_BLOCK, Sync
from tests.parity.updates import SEED, batch, full_tensors, own_share, reference_model

STEPS = 6
OPTIONS = RunOptions(out=Path(), learning_rate=3e-2, eps=1e-2, weight_decay=0.1, clip_norm=0.5)
"""With the usual eps Adam makes a whole step of a gradient that is rounding alone."""

Region = tuple[str, tuple[slice, ...]]
Layout = list[tuple[int, tuple[Region, ...]]]
"""The parts of parameters that one rank holds, in sections that are compressed each by itself: the number of the bucket, names, and where
in the whole parameters they are."""


class Trained(NamedTuple):
    """What a rank found: the number of its replica, its parameters gathered whole over the replica, and its part of them."""

    replica: int
    after: dict[str, Tensor]
    norms: list[float]
    layout: Layout
    gradients: list[dict[str, Tensor]]


def trained(plan_file: PlanFile, fault: str = "") -> Trained:
    """Take steps as the trainer does, as one rank of a world that is up."""
    with FAULTS[fault]():
        engine = build_engine(plan_file, device=torch.device("cpu"), seed=SEED)
        agreement, norms, gradients = engine.agreement, list[float](), list[dict[str, Tensor]]()
        assert agreement is not None
        optimizer = host_optimizer(engine.model_parts, plan_file.training.optimizer, OPTIONS, None)
        for step in range(1, STEPS + 1):
            engine.forward_backward(*own_share(engine, *batch(step, plan_file)))
            gradients.append(_gradients(engine.model_parts))
            agreement.before_clipping(step)
            norms.append(engine.clip_gradients(OPTIONS.clip_norm))
            agreement.update(step, optimizer.on_device, optimizer.step)
            agreement.after_update(step)
            engine.zero_gradients()
        agreement.finish()
    return Trained(engine.replica, full_tensors(engine), norms, _layout(engine.model_parts, plan_file), gradients)


def _gradients(parts: Sequence[Any]) -> dict[str, Tensor]:
    """The gradients of this rank's replica, gathered whole."""
    named = [(name, parameter.grad) for part in parts for name, parameter in part.named_parameters()]
    return {name: (of.full_tensor() if isinstance(of, DTensor) else of).detach().clone() for name, of in named}


def _layout(parts: Sequence[Any], plan_file: PlanFile) -> Layout:
    names = {parameter: name for part in parts for name, parameter in part.named_parameters()}
    return [
        (index, tuple((names[one], _region(one)) for one in section))
        for index, bucket in enumerate(buckets_of(parts, tp=plan_file.plan.mesh.tp))
        for section in (bucket.parameters[: bucket.divided], bucket.parameters[bucket.divided :])
        if section
    ]


def _region(parameter: nn.Parameter) -> tuple[slice, ...]:
    """Where this rank's part lies: tp and dp_shard cut a model of these tests along one dimension each, tp first."""
    found = [slice(0, size) for size in parameter.shape]
    if isinstance(parameter, DTensor):
        shape, offset = compute_local_shape_and_global_offset(
            parameter.shape, parameter.device_mesh, parameter.placements
        )
        found = [slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True)]
    return tuple(found)


class Reference:
    """R models in one process, each with its own part of the batch. `ranks`: what the engine's found, of which the layouts are taken.

    In 8 bits a number at the edge between two codes takes the one or the other by the order of a sum, and all later steps differ. There the
    gradients are compared at every step, and then the engine's are taken.
    """

    def __init__(self, plan_file: PlanFile, ranks: Sequence[Trained]) -> None:
        self.plan_file, self.sync = plan_file, plan_file.plan.sync
        held = [section for one in ranks if not one.replica for section in one.layout]
        self.sections = {(repr(section), index): section for index, section in held}  # tp ranks share some
        self.given = [
            [one for one in ranks if one.replica == replica] for replica in range(plan_file.plan.mesh.dp_replicate)
        ]
        self.worst_gradient = 0.0
        self.models = [reference_model(plan_file) for _ in range(plan_file.plan.mesh.dp_replicate)]
        self.named = [dict(model.named_parameters()) for model in self.models]
        self.optimizers = [self._optimizer(model) for model in self.models]
        self.norms: list[float] = []

    def _optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        wide, narrow = ([p for p in model.parameters() if (p.ndim > 1) == is_wide] for is_wide in (True, False))
        groups = [{"params": wide, "weight_decay": OPTIONS.weight_decay}, {"params": narrow, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=OPTIONS.learning_rate, betas=OPTIONS.betas, eps=OPTIONS.eps)

    def backward(self, step: int) -> None:
        """Every replica's gradient of the loss over its rows, divided by the mean number of labels of a replica."""
        inputs, labels = batch(step, self.plan_file)
        count = int((labels != -100).sum()) / len(self.models)
        for model, rows, wanted in zip(
            self.models, inputs.chunk(len(self.models)), labels.chunk(len(self.models)), strict=True
        ):
            model.zero_grad()
            logits = model(input_ids=rows).logits.float().flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, wanted.flatten(), reduction="sum") / count
            torch.autograd.backward(loss)
        if self.sync.bits == 8 and self.sync.outer is None:
            self._take_given(step)

    def _take_given(self, step: int) -> None:
        for named, ranks in zip(self.named, self.given, strict=True):
            for one in ranks:
                for name, gradient in one.gradients[step - 1].items():
                    own = _gradient(named[name])
                    self.worst_gradient = max(self.worst_gradient, float((own - gradient).norm() / gradient.norm()))
                    own.copy_(gradient)

    def clip(self) -> None:
        clipped = [
            float(nn.utils.clip_grad_norm_(model.parameters(), OPTIONS.clip_norm or torch.inf)) for model in self.models
        ]
        self.norms.append(max(clipped))

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def flat(self, replica: int, bucket: Sequence[Region], of: Callable[[nn.Parameter], Tensor]) -> Tensor:
        return torch.cat([of(self.named[replica][name]).detach()[region].reshape(-1) for name, region in bucket])

    def spread(
        self, replica: int, bucket: Sequence[Region], of: Callable[[nn.Parameter], Tensor], flat: Tensor
    ) -> None:
        for name, region in bucket:
            target = of(self.named[replica][name]).detach()[region]
            target.copy_(flat[: target.numel()].view(target.shape))
            flat = flat[target.numel() :]


def compress(values: Tensor, bits: int) -> Tensor:
    """What is left of a vector after few bits, by the rule that `specs.Sync` and docs/running.md state."""
    found = []
    for block in torch.split(values, SENT_BLOCK):
        largest = block.abs().max().clamp(min=1e-38)
        if bits == 1:
            found.append(torch.where(block >= 0, 1.0, -1.0) * block.abs().mean())
        elif bits == 4:
            halved = torch.log2(largest / block.abs()).round()
            found.append(torch.where(halved < 7, block.sign() * largest * 2**-halved, 0.0))
        else:
            found.append((block / (largest / 127)).round() * (largest / 127))
    return torch.cat(found)


def mean(vectors: list[Tensor], bits: int | None, errors: dict[object, Tensor] | None, key: object) -> Tensor:
    """The mean of one vector of each replica in few bits, with what was left out before where there are `errors`."""
    if bits is None:
        return torch.stack(vectors).mean(dim=0)
    ranks, size = len(vectors), len(vectors[0])
    part, kept = -(-size // (8 * ranks)) * 8, {} if errors is None else errors
    parts: list[list[Tensor]] = []
    for rank, vector in enumerate(vectors):
        whole = nn.functional.pad(vector, (0, ranks * part - size)) + kept.get((key, rank), torch.zeros(ranks * part))
        parts.append([compress(one, bits) for one in torch.split(whole, part)])
        kept[key, rank] = whole - torch.cat(parts[-1])
    means = []
    for place in range(ranks):
        one = torch.stack([of[place] for of in parts]).mean(dim=0) + kept.get((key, place, "mean"), torch.zeros(part))
        means.append(compress(one, bits))
        kept[key, place, "mean"] = one - means[-1]
    return torch.cat(means)[:size]


def reference(plan_file: PlanFile, ranks: Sequence[Trained]) -> Reference:
    """Train with plain models by the rule of the plan's method."""
    run = Reference(plan_file, ranks)
    METHODS[plan_file.plan.sync.method](run, plan_file.plan.sync)
    return run


def _each_bucket(run: Reference) -> Iterator[tuple[tuple[str, int], tuple[Region, ...]]]:
    yield from run.sections.items()


def _exchanged(
    run: Reference, of: list[Callable[[nn.Parameter], Tensor]], bits: int | None, errors: dict[object, Tensor]
) -> None:
    """Replace what `of` gives for every parameter by the mean over replicas."""
    for key, bucket in _each_bucket(run):
        new = mean([run.flat(r, bucket, of[r]) for r in range(len(of))], bits, errors, key)
        for replica in range(len(of)):
            run.spread(replica, bucket, of[replica], new)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _momentum(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    found: Tensor = optimizer.state[parameter]["exp_avg"]
    return found


def _compressed_gradients(run: Reference, sync: Sync) -> None:
    errors: dict[object, Tensor] = {}
    for step in range(1, STEPS + 1):
        run.backward(step)
        bits = sync.bits if step > sync.warmup_steps else None
        _exchanged(run, [_gradient] * len(run.models), bits, errors)
        run.clip()
        run.step()


def _one_bit_adam(run: Reference, sync: Sync) -> None:
    first, second = OPTIONS.betas
    errors: dict[object, Tensor] = {}
    for step in range(1, STEPS + 1):
        run.backward(step)
        if step <= sync.warmup_steps:
            _exchanged(run, [_gradient] * len(run.models), None, errors)
            run.clip()
            run.step()
            continue
        run.clip()
        for optimizer in run.optimizers:
            for parameter, state in optimizer.state.items():
                state["exp_avg"] = first * state["exp_avg"] + (1 - first) * _gradient(parameter)
        _exchanged(run, [partial(_momentum, optimizer) for optimizer in run.optimizers], 1, errors)
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    frozen = state["exp_avg_sq"] / (1 - second**sync.warmup_steps)
                    direction = state["exp_avg"] / (1 - first**step) / (frozen.sqrt() + group["eps"])
                    parameter.data -= group["lr"] * (direction + group["weight_decay"] * parameter.data)


def _local_steps(run: Reference, sync: Sync) -> None:
    outer, weights = sync.outer, nn.Parameter.detach
    assert outer is not None
    assert sync.inner_steps is not None
    every = range(len(run.models))
    base = {key: run.flat(0, bucket, weights) for key, bucket in _each_bucket(run)}
    momentum = {key: torch.zeros_like(flat) for key, flat in base.items()}
    waiting: dict[object, tuple[int, Tensor]] = {}
    for step in range(1, STEPS + 1):
        run.backward(step)
        run.clip()
        run.step()
        for key, bucket in _each_bucket(run):
            fragment = key[1] % sync.fragments  # the place of the bucket
            moves = [base[key] - run.flat(replica, bucket, weights) for replica in every]
            begins = (step + fragment * sync.inner_steps // sync.fragments) % sync.inner_steps == 0
            if begins and not sync.delay:
                waiting[key] = (step, mean(moves, sync.bits, None, key))
            if key in waiting and waiting[key][0] + sync.delay == step:
                moved = waiting.pop(key)[1]
                momentum[key] = outer.momentum * momentum[key] + moved
                moved = moved + outer.momentum * momentum[key] if outer.nesterov else momentum[key]
                base[key] = base[key] - outer.learning_rate * moved
                for replica in every:
                    own = run.flat(replica, bucket, weights)
                    run.spread(replica, bucket, weights, outer.keeps_local * own + (1 - outer.keeps_local) * base[key])
            if begins and sync.delay:
                waiting[key] = (step, mean(moves, sync.bits, None, key))


def _islands(run: Reference, sync: Sync) -> None:
    for step in range(1, STEPS + 1):
        run.backward(step)
        run.clip()
        run.step()


METHODS: dict[str, Callable[[Reference, Sync], None]] = {
    "8-bit-gradients": _compressed_gradients,
    "1-bit-adam": _one_bit_adam,
    "local-steps": _local_steps,
    "islands": _islands,
}


def _without_errors(group: Any, values: Tensor, sizes: list[int], bits: int | None, errors: Any = None) -> Tensor:
    return mean_over(group, values, sizes, bits)


def _own_alone(group: Any, values: Tensor, sizes: list[int], bits: int | None, errors: Any = None) -> Tensor:
    return values


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "": contextlib.nullcontext,
    "errors are forgotten": lambda: patch.object(compressed, "mean_over", _without_errors),
    "gradients stay apart": lambda: patch.object(compressed, "mean_over", _own_alone),
    "weights stay apart": lambda: patch.object(local_steps, "mean_over", _own_alone),
}
