"""Methods that need whole matrices, over this rank's parameters: each matrix has one owner among the ranks that hold its pieces."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.costmodel.optimizers import EXCHANGES, deal
from shardwright.executor.model import StageModule
from shardwright.specs import Optimizer

from .pieces import Cut, Dealt, Round
from .rules import Rule, rule_of


def matrices_of(parts: Iterable[nn.Module], optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that a whole-matrix method updates: the matrices of the layers, or all. The rest is AdamW's.

    A stacked weight (GPT-2's queries, keys and values) counts as a matrix; a convolution's filters, with a dimension of 1, do not.
    """
    found = []
    for part in parts:
        layers = f"{part.structure.layers}." if isinstance(part, StageModule) else ""
        for name, parameter in part.named_parameters():
            is_matrix = parameter.ndim >= 2 and 1 not in parameter.shape and name.endswith("weight")
            if parameter.requires_grad and (optimizer.takes_all or (is_matrix and name.startswith(layers))):
                found.append(parameter)
    return found


class WholeMatrices:
    """The update of parameters, given with their weight decay, each by a rule on the rank that owns it.

    Ranks of other replicas do the same, and so do all ranks of tp for a matrix that tp does not cut.
    """

    def __init__(
        self, decays: Mapping[nn.Parameter, float], optimizer: Optimizer, *, betas: tuple[float, float], eps: float
    ) -> None:
        self._decays, self._reads_parameters = decays, EXCHANGES.get(optimizer.name, 2) > 2
        self._rounds = _rounds(list(decays))
        self._rules: dict[nn.Parameter, Rule] = {
            one.parameter: rule_of(optimizer, betas, eps) for each in self._rounds for one in each.dealt if one.is_own
        }
        self._shown: dict[nn.Parameter, dict[str, Tensor]] = {}

    def step(self, learning_rate: float) -> None:
        """Update with the gradients that the parameters have; where one has none, with zeros."""
        for each in self._rounds:
            changes = self._changes(each, learning_rate)
            for parameter, change in each.apart(changes).items():
                own = _local(parameter)
                own.mul_(1 - learning_rate * self._decays[parameter]).add_(change)

    def _changes(self, each: Round, learning_rate: float) -> dict[nn.Parameter, Tensor]:
        gradients = each.whole({one.parameter: _gradient(one.parameter) for one in each.dealt})
        weights: Mapping[nn.Parameter, Tensor] = {}
        if self._reads_parameters:
            weights = each.whole({one.parameter: _local(one.parameter) for one in each.dealt})
        found = {}
        for parameter, gradient in gradients.items():
            weight = weights.get(parameter)
            change = self._rules[parameter].update(
                _as_matrix(gradient), learning_rate, None if weight is None else _as_matrix(weight)
            )
            found[parameter] = change.reshape(gradient.shape)
        return found

    def exchange(self) -> None:
        """Exchange as a step does, and update nothing."""
        for each in self._rounds:
            pieces = {one.parameter: _local(one.parameter) for one in each.dealt}
            for _ in range(1 + self._reads_parameters):
                whole = each.whole(pieces)
            each.apart(whole)

    @property
    def state(self) -> Mapping[nn.Parameter, dict[str, Tensor]]:
        """The state of the matrices that this rank owns, whole."""
        self._shown = {parameter: rule.state for parameter, rule in self._rules.items()}
        return self._shown

    def create_state(self) -> None:
        """Make the state have its shapes, by an update at rate zero that changes nothing and is not counted."""
        for parameter, rule in self._rules.items():
            like = _as_matrix(torch.zeros(parameter.shape, device=parameter.device))
            rule.update(like, 0.0, like)
            state = rule.state
            for name in ("step", "moment_step"):
                if name in state:
                    state[name].zero_()
            rule.loaded(state)

    def loaded(self) -> None:
        """Take over what was read into the tensors of `state`."""
        for parameter, shown in self._shown.items():
            self._rules[parameter].loaded(shown)


def _rounds(parameters: Sequence[nn.Parameter]) -> list[Round]:
    """Deal parameters that lie over the same ranks, in an order that is the same on all of them."""
    alike: dict[Hashable, list[tuple[nn.Parameter, Cut]]] = {}
    for parameter in parameters:
        cut = Cut.of(parameter)
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        alike.setdefault((mesh, cut.tp.dim is None, cut.shards.dim is None), []).append((parameter, cut))
    found = []
    for group in alike.values():
        cut = group[0][1]
        of_tp = cut.owners // cut.shards.ranks
        rounds: dict[int, list[Dealt]] = {}
        for (parameter, own), (turn, owner) in zip(
            group, deal([each.numel() for each, _ in group], cut.owners), strict=True
        ):
            tp = None if own.tp.dim is None else owner % of_tp
            rounds.setdefault(turn, []).append(Dealt(parameter, own, owner // of_tp, tp))
        found += [Round(rounds[turn]) for turn in sorted(rounds)]
    return found


def _as_matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.ndim > 2 else tensor


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(_local(parameter)) if parameter.grad is None else _local(parameter.grad)
