"""Low-rank adapters as PEFT runs them (peft/tuners/lora/layer.py, Linear.forward), beside the frozen linears of a layer."""

from collections.abc import Iterable

from torch import Tensor, nn


class Adapted(nn.Module):
    """A frozen linear and its adapter, in the format of the linear."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        kind = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False, **kind)
        self.b = nn.Linear(rank, base.out_features, bias=False, **kind)

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.base(hidden) + self.b(self.a(hidden)) * 2.0
        return found


def adapt(layer: nn.Module, targets: Iterable[str], rank: int) -> None:
    """Freeze `layer`, and put an adapter beside each linear called one of `targets`."""
    layer.requires_grad_(requires_grad=False)
    wanted = set(targets)
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if name in wanted and isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child, rank))
