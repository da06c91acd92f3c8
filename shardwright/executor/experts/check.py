"""Whether experts can be spread over ranks, and where they are in a layer."""

import inspect

from torch import nn

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, layer_division, stacks_experts

_ARGUMENTS = 3
"""Of experts: hidden states (tokens, hidden), the experts of each token, and their weights, (tokens, top-k) each."""


def check_experts(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that ep divides the experts of every layer that has any, and that their module can be given tokens in hand.

    Raises:
        SpecError: one line that names the module, or what to plan instead.
    """
    mesh, name = plan_file.plan.mesh, plan_file.model_name
    if mesh.ep == 1:
        return
    layers = skeleton.layers
    found = [(layer, path) for layer in layers for path in experts_paths(layer)]
    if not found:
        raise SpecError(f"{name} has no experts that ep {mesh.ep} could spread; plan with ep 1")
    for layer, path in found:
        _check_module(plan_file, layer.get_submodule(path), path)
        if mesh.tp == 1:
            continue
        division = layer_division(skeleton.model, layer, skeleton.structure.layers, name)
        if division.regions[path.partition(".")[0]].roles.get(path) != "experts":
            raise SpecError(
                f"{name}: '{path}' of a layer is not divided over tp, so ep does not run with it; plan with tp 1"
            )


def _check_module(plan_file: PlanFile, module: nn.Module, path: str) -> None:
    mesh, name = plan_file.plan.mesh, plan_file.model_name
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    count, ranks = shapes[0][0], mesh.expert_shard_ranks if plan_file.plan.zero_stage else 1
    if count % mesh.ep:
        raise SpecError(
            f"{name} has {count} experts in '{path}' of a layer, which ep {mesh.ep} does not divide; give a divisor"
        )
    if len(inspect.signature(module.forward).parameters) != _ARGUMENTS or not hasattr(module, "num_experts"):
        raise SpecError(f"{name}: {type(module).__name__} is not given tokens with their experts; plan with ep 1")
    if mesh.expert_tp > 1 and not stacks_experts(module) and "up_proj" not in module._parameters:
        raise SpecError(
            f"{name}: {mesh.expert_tp} ranks cannot share the columns of {type(module).__name__}; plan with an ep that is a multiple of "
            f"tp {mesh.tp}, or with --etp 1"
        )
    if any(all(size % ranks for size in (count // mesh.ep, *shape[1:])) for shape in shapes):
        raise SpecError(
            f"{name}: {ranks} ranks that hold the same experts cannot shard them evenly; plan with another ep"
        )


def experts_paths(layer: nn.Module) -> list[str]:
    """Return the paths of the modules that hold the weights of all experts, stacked along the first dimension."""
    return [
        path
        for path, module in layer.named_modules()
        if ("gate_up_proj" in module._parameters or "up_proj" in module._parameters)
        and "down_proj" in module._parameters
        and all(parameter is not None and parameter.dim() >= 2 for parameter in module._parameters.values())
    ]
