"""The modules of a layer that recompute names, found by structure: what they hold and what they are given, not a family's names."""

import inspect

from torch import nn
from transformers.pytorch_utils import Conv1D

from shardwright.executor.experts import experts_paths
from shardwright.executor.model import called_children

_MATRICES = (nn.Linear, Conv1D)
_FEWEST_LINEARS = 2


def is_mixture(region: nn.Module) -> bool:
    """Whether a child of a layer holds experts and what chooses among them."""
    return bool(experts_paths(region))


def is_feed_forward(module: nn.Module) -> bool:
    """Whether `module` is a dense feed-forward: it is given hidden states alone, and holds several linears and no experts."""
    given = inspect.signature(type(module).forward).parameters
    linears = [part for part in module.modules() if part is not module and isinstance(part, _MATRICES)]
    return len(given) == 2 and len(linears) >= _FEWEST_LINEARS and not is_mixture(module)  # self and the hidden states


def norms(layer: nn.Module) -> list[nn.Module]:
    """Return the norms around attention and feed-forward: the layer's children whose parameters are all vectors."""
    return [
        child
        for child in called_children(layer).values()
        if (own := list(child.parameters())) and all(parameter.dim() == 1 for parameter in own)
    ]


def experts_of(region: nn.Module) -> list[nn.Module]:
    return [region.get_submodule(path) for path in experts_paths(region)]


def shared_experts(region: nn.Module) -> list[nn.Module]:
    """Return the feed-forwards that every token of a region with experts passes."""
    return [child for child in region.children() if is_feed_forward(child)] if is_mixture(region) else []
