"""Gradients in 8 bits, and 1-bit Adam: error feedback, and a warm-up in full precision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardwright.specs import Sync

from .buckets import Bucket, local
from .exchange import Errors, mean_over


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every trained parameter has a gradient after a backward pass"
    return parameter.grad


class CompressedGradients:
    """Every step the replicas take the mean of their gradients, in full for `warmup_steps` and then in few bits with error feedback.

    Gradients are clipped and applied after that, so the norm is that of the mean.
    """

    apart = False

    def __init__(self, sync: Sync, buckets: Sequence[Bucket], group: dist.ProcessGroup, device: torch.device) -> None:
        self._sync, self._buckets, self._group = sync, buckets, group
        ranks = dist.get_world_size(group)
        self._errors = [Errors.of(bucket.sizes, ranks, device) for bucket in buckets]

    def before_clipping(self, step: int) -> None:
        self._exchange(self._sync.bits if step > self._sync.warmup_steps else None)

    def _exchange(self, bits: int | None) -> None:
        for bucket, errors in zip(self._buckets, self._errors, strict=True):
            for parameter in bucket.parameters:
                if parameter.grad is None:  # no token came to these experts
                    parameter.grad = torch.zeros_like(parameter)
            bucket.spread(mean_over(self._group, bucket.flat(_gradient), bucket.sizes, bits, errors), _gradient)

    def update(self, step: int, optimizer: torch.optim.Optimizer | None, plainly: Callable[[], None]) -> None:
        plainly()

    def after_update(self, step: int) -> None:
        pass

    def exchange_once(self) -> None:
        self._exchange(self._sync.bits)

    def state(self, step: int) -> dict[str, Tensor]:
        rank = dist.get_rank()
        found = {}
        for bucket, errors in zip(self._buckets, self._errors, strict=True):
            found[f"error.{bucket.name}.rank-{rank}"] = errors.sent
            found[f"mean_error.{bucket.name}.rank-{rank}"] = errors.mean
        return found

    def restart(self) -> None:
        for errors in self._errors:
            errors.sent.zero_()
            errors.mean.zero_()

    def finish(self) -> None:
        pass


class CompressedMomentum(CompressedGradients):
    """1-bit Adam (arXiv 2102.02888, algorithm 1), with the decay and the bias correction of AdamW.

    For T = `warmup_steps` it is AdamW on the mean gradient. After that v stays v_T / (1 - beta2^T). Each replica clips its gradient g
    by its own norm, and with t the number of the step

        m <- mean of replicas of beta1 m + (1 - beta1) g, in one bit with error feedback
        w <- (1 - rate decay) w - rate m / (1 - beta1^t) / (sqrt(v) + eps)
    """

    def before_clipping(self, step: int) -> None:
        if step <= self._sync.warmup_steps:
            self._exchange(None)

    @torch.no_grad()
    def update(self, step: int, optimizer: torch.optim.Optimizer | None, plainly: Callable[[], None]) -> None:
        if step <= self._sync.warmup_steps or optimizer is None:
            plainly()
            return
        states = optimizer.state

        def momentum(parameter: nn.Parameter) -> Tensor:
            found: Tensor = states[parameter]["exp_avg"]
            return found

        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                local(momentum(parameter)).lerp_(local(gradient), 1 - group["betas"][0])
        for bucket, errors in zip(self._buckets, self._errors, strict=True):
            bucket.spread(mean_over(self._group, bucket.flat(momentum), bucket.sizes, 1, errors), momentum)
        for group in optimizer.param_groups:
            self._apply(step, group, states)

    def _apply(self, step: int, group: dict[str, Any], states: Mapping[Tensor, dict[str, Tensor]]) -> None:
        first, second = group["betas"]
        rate, decay, eps = (float(group[name]) for name in ("lr", "weight_decay", "eps"))
        frozen = 1 - second**self._sync.warmup_steps
        for parameter in group["params"]:
            state, weights = states[parameter], local(parameter.detach())
            state["step"] += 1
            weights.mul_(1 - rate * decay)
            scale = (local(state["exp_avg_sq"]) / frozen).sqrt_().add_(eps)
            weights.addcdiv_(local(state["exp_avg"]), scale, value=-rate / (1 - first**step))

    def exchange_once(self) -> None:
        for bucket, errors in zip(self._buckets, self._errors, strict=True):
            mean_over(self._group, bucket.flat(), bucket.sizes, 1, errors)
