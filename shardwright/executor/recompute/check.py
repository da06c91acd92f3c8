"""What recompute by modules and tiled feed-forwards cannot run, checked before anything starts."""

from torch import nn

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, called_children
from shardwright.specs import RecomputeModule, splits_backward

from .parts import experts_of, is_feed_forward, is_mixture, norms


def check_recompute(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that every layer has the modules that are to run again, or none of that kind.

    Raises:
        SpecError: a layer computes such a part in its own code, not in a module; there is no dense feed-forward to tile; the
            schedule would compute tiles again for every weight.
    """
    plan, training = plan_file.plan, plan_file.training
    kinds = {type(layer): layer for layer in skeleton.layers}
    selective = any(run.recompute == "selective" for stage in plan.stages for run in stage.layers)
    for name in training.recompute_modules if selective else ():
        for layer in kinds.values():
            if not _has(layer, name):
                raise SpecError(
                    f"{skeleton.name}: {type(layer).__name__} has no module of its own for '{name}' to run again; leave it out of "
                    "--recompute-modules"
                )
    if training.mlp_tiles > 1:
        _check_tiles(plan_file, skeleton)


def _check_tiles(plan_file: PlanFile, skeleton: Skeleton) -> None:
    plan, name = plan_file.plan, skeleton.name
    dense = [layer for layer in skeleton.layers if not any(is_mixture(child) for child in layer.children())]
    if not dense:
        raise SpecError(f"{name} has experts in every layer, which run in one piece; plan without --mlp-tiles")
    if missing := next((layer for layer in dense if not _has(layer, "mlp")), None):
        raise SpecError(
            f"{name}: {type(missing).__name__} has no module for its feed-forward, which could run in tiles; plan without --mlp-tiles"
        )
    if splits_backward(plan.schedule) and plan.mesh.pp > 1:
        raise SpecError(
            f"{plan.schedule} does not run with mlp_tiles: each weight's gradient would compute the tiles again; plan with 1f1b, or "
            "without --mlp-tiles"
        )


def _has(layer: nn.Module, name: RecomputeModule) -> bool:
    """Whether a layer has a module called `name`, or is of a kind without that part."""
    mixtures = [child for child in layer.children() if is_mixture(child)]
    if name == "layernorm":
        return bool(norms(layer))
    if name == "mlp":
        return bool(mixtures) or any(is_feed_forward(child) for child in called_children(layer).values())
    if name == "moe_act":
        return all(hasattr(experts, "_apply_gate") for region in mixtures for experts in experts_of(region))
    return True
