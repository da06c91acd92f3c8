"""Head and loss in chunks of a microbatch's tokens, so that the logits of one chunk are alive at once.

Each chunk runs its forward and backward before the next, inside the forward pass of the head. The gradients that come out are
kept for the backward pass, as in Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedConfig

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, tiny_model

from .loss import LOSS, TokenLoss

_SCALE, _CAP = "logits_scaling", "final_logit_softcapping"


@dataclass(frozen=True)
class AfterHead:
    """What a model does to its logits after the head: divides them by a number (Granite), and caps them (Gemma 2).

    transformers 5.23, models/granite/modeling_granite.py and models/gemma2/modeling_gemma2.py, forward.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Self:
        return cls(float(getattr(config, _SCALE, None) or 1.0), getattr(config, _CAP, None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits / self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    @staticmethod
    def leave_out(config: PreTrainedConfig) -> None:
        """Let the model of `config` do none of it."""
        for name, nothing in ((_SCALE, 1.0), (_CAP, None)):
            if hasattr(config, name):
                setattr(config, name, nothing)


def check_loss_chunks(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the model's logits are what its head returns, scaled or capped. It is tried on a tiny model of the same class.

    Raises:
        SpecError: the head is not a linear, or the model does something else to logits after it.
    """
    if plan_file.training.loss_chunks == 1:
        return
    name, seen = f"{skeleton.name}: {type(skeleton.model).__name__}", []
    model = tiny_model(skeleton, axis="loss_chunks")
    head = model.get_submodule(skeleton.structure.head)
    if type(head) is not nn.Linear:
        raise SpecError(
            f"{name} has a head that is no linear, which a loss in chunks needs; plan without --loss-chunks"
        )
    head.register_forward_hook(lambda _module, _given, output: seen.append(output))
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8).view(2, 4), use_cache=False).logits
    if not torch.allclose(logits, AfterHead.of(model.config)(seen[0])):
        raise SpecError(
            f"{name} changes logits after its head, which a loss in chunks leaves out; plan without --loss-chunks"
        )


def compute_loss_in_head(head: nn.Module, loss: TokenLoss, config: PreTrainedConfig) -> None:
    """Let the head of a model of `config` return a microbatch's loss, (1, 1, 1) in fp32, in place of its logits."""
    after = AfterHead.of(config)
    AfterHead.leave_out(config)

    def forward(hidden: Tensor) -> Tensor:
        with torch.profiler.record_function(LOSS):
            total: Tensor = _HeadAndLoss.apply(hidden, head.weight, head.bias, loss, after)  # type: ignore[no-untyped-call]  # torch's
        return total.view(1, 1, 1)

    head.forward = forward


class _HeadAndLoss(torch.autograd.Function):
    """What is frozen, the head's weight or what is below it, has no gradient computed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: TokenLoss, after: AfterHead
    ) -> Tensor:
        given = [weight] if bias is None else [weight, bias]
        needed = [
            wants
            for wants, tensor in zip(ctx.needs_input_grad, (hidden, weight, bias), strict=False)
            if tensor is not None
        ]
        sums = [
            torch.zeros_like(tensor, dtype=torch.float32)
            for tensor, wants in zip(given, needed[1:], strict=True)
            if wants
        ]
        labels = loss.next_labels()
        of_hidden, total = [], torch.zeros((), device=hidden.device)
        pairs = zip(hidden.flatten(0, 1).chunk(loss.chunks), labels.flatten().chunk(loss.chunks), strict=True)
        for tokens, targets in pairs:
            own = [
                tensor.detach().requires_grad_(wants) for tensor, wants in zip((tokens, *given), needed, strict=True)
            ]
            with torch.enable_grad(), saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor):
                # hooks of their own: who counts or moves what is kept for the backward pass has nothing to do with a chunk
                part = loss.of_logits(after(nn.functional.linear(*own))[None], targets[None])
            gradients = list(torch.autograd.grad(part, [tensor for tensor in own if tensor.requires_grad]))
            if needed[0]:
                of_hidden.append(gradients.pop(0))
            for total_of_weight, gradient in zip(sums, gradients, strict=True):
                total_of_weight += gradient
            total += part.detach()
        found = [tensor.to(weight.dtype) for tensor in sums]
        ctx.needed = needed
        ctx.save_for_backward(*([torch.cat(of_hidden).view_as(hidden)] if of_hidden else []), *found)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        kept = iter(tensor * gradients[0].to(tensor.dtype) for tensor in ctx.saved_tensors)
        found = [next(kept) if wants else None for wants in ctx.needed]
        return *found, *(None,) * (5 - len(found))
