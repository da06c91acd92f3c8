"""A loss on routers is checked before it is used: on a tiny model of the class it is what transformers computes."""

from typing import Any

import torch
from torch import Tensor, nn

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, tiny_model

from .losses import load_balancing_loss, router_spec, sums_of

_LARGEST_ERROR = 1e-5
_SEQ = 6
_OFF = "set output_router_logits to false"


def check_router_loss(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the loss on routers that the configuration asks for, if it does, is computed as its class computes it.

    Raises:
        SpecError: the class has no such loss, or another one; part of the weights is frozen; sequences are padded.
    """
    if not skeleton.asks_for_router_loss:
        return
    name, training = skeleton.name, plan_file.training
    if router_spec(skeleton) is None:
        raise SpecError(f"{name}: {type(skeleton.model).__name__} has no loss on routers; {_OFF}")
    if not training.trainable.trains_all:
        raise SpecError(f"{name}: a loss on routers is not trained beside frozen weights; {_OFF}")
    if training.lengths is not None and training.packing == "padded":
        raise SpecError(f"{name}: a loss on routers would count padding; plan with --packing packed, or {_OFF}")
    _check_value(skeleton)


def _check_value(skeleton: Skeleton) -> None:
    model: Any = tiny_model(skeleton, axis="a loss on routers", fix=_OFF)
    spec = router_spec(Skeleton(model, skeleton.structure, skeleton.name, asks_for_router_loss=True))
    assert spec is not None, "it has the same class"
    logits: list[Tensor] = []

    def listen(_module: nn.Module, _given: Any, output: Any) -> None:
        logits.append(output[spec.index] if isinstance(output, tuple) else output)

    for module in model.modules():
        if isinstance(module, spec.kind):
            module.register_forward_hook(listen)
    try:
        with torch.no_grad():
            tokens = torch.arange(2 * _SEQ).view(2, _SEQ)
            expected = float(model(input_ids=tokens, use_cache=False, output_router_logits=True).aux_loss)
            found = float(load_balancing_loss(sums_of(logits, spec.top_k), spec.count * tokens.numel()))
    except Exception as problem:  # whatever the code of one of hundreds of classes raises
        detail = " ".join(str(problem).split())[:120]
        raise SpecError(f"{skeleton.name}: its loss on routers does not run ({detail}); {_OFF}") from None
    if not abs(found - expected) <= _LARGEST_ERROR * abs(expected):
        raise SpecError(
            f"{skeleton.name}: {type(model).__name__} computes another loss on routers ({expected:.4g}, not {found:.4g}); {_OFF}"
        )
