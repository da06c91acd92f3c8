"""The load-balancing loss of a microbatch, over the stages and the ranks that share its tokens.

transformers computes it over all routers together (models/mixtral/modeling_mixtral.py, load_balancing_loss_func): of L routers and T
tokens, expert e is chosen f_e times and has the summed probability p_e, and the loss is E sum_e f_e / (L T) p_e / (L T). A stage of a
pipeline hands its sums on with the hidden states, and the last one computes the loss. Its gradient, which is that of p_e alone, goes back
the same way. Ranks of cp have parts of the tokens: they add up f_e, and each takes the gradient of its own p_e.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shardwright.executor.model import MeshRanks, Skeleton

SUMS = torch.float64
"""The format of sums over tokens. No hidden states have it, so that a dry run tells them apart."""


@dataclass(frozen=True)
class RouterSpec:
    """The loss on routers of a model. `kind`: the class of its routers, whose outputs hold the logits (tokens, experts) at `index`.
    `count`: routers in the whole model. `coefficient`: of the loss."""

    kind: type[nn.Module]
    index: int
    count: int
    experts: int
    top_k: int
    coefficient: float


def router_spec(skeleton: Skeleton) -> RouterSpec | None:
    """Return the loss that the model's configuration asks for by `output_router_logits`; None where it asks for none.

    The class says itself where the logits of its routers are (transformers, utils/output_capturing.py, OutputRecorder).
    """
    model: Any = skeleton.model
    if not skeleton.asks_for_router_loss:
        return None
    recorded = (getattr(model.base_model, "_can_record_outputs", None) or {}).get("router_logits")
    kind: Any = getattr(recorded, "target_class", None)
    index: int = getattr(recorded, "index", 0)
    routers = [module for module in model.modules() if kind is not None and isinstance(module, kind)]
    if not routers or not hasattr(model, "router_aux_loss_coef"):
        return None
    experts = int(getattr(model, "num_experts", 0) or routers[0].weight.shape[0])
    top_k = int(getattr(model, "num_experts_per_tok", 0) or skeleton.config.num_experts_per_tok)
    return RouterSpec(kind, index, len(routers), experts, top_k, float(model.router_aux_loss_coef))


def sums_of(logits: Sequence[Tensor], top_k: int) -> Tensor:
    """(2, experts): of logits (tokens, experts) each, how often experts are chosen, and the sums of their probabilities."""
    sums = []
    for own in logits:
        probabilities = own.softmax(dim=-1)
        # of what has a gradient, autograd would keep the choices
        chosen = torch.bincount(probabilities.detach().topk(top_k, dim=-1).indices.flatten(), minlength=own.shape[-1])
        sums.append(torch.stack([chosen.to(SUMS), probabilities.float().sum(0).to(SUMS)]))
    return torch.stack(sums).sum(0)


def load_balancing_loss(sums: Tensor, rows: float) -> Tensor:
    """The loss of `sums_of` over `rows`, which are routers times tokens."""
    chosen, probabilities = sums.unbind()
    return len(chosen) * (chosen / rows * (probabilities / rows)).sum()


class RouterLoss:
    """Records what routers of this rank's stages find, and returns the loss of each microbatch.

    `tokens`: of a whole microbatch. `ranks`: the groups over which its tokens are divided. `scale`, set for each step: what the loss of a
    microbatch counts in this rank's loss.
    """

    def __init__(self, spec: RouterSpec, *, tokens: int, ranks: Sequence[MeshRanks], device: torch.device) -> None:
        self._spec, self._rows, self._ranks, self._device = spec, float(spec.count * tokens), ranks, device
        self._logits: list[Tensor] | None = None
        self._whole: deque[Tensor] = deque()
        self.scale = 1.0

    @property
    def example(self) -> Tensor:
        """What a stage hands on, on the meta device."""
        return torch.empty(2, self._spec.experts, dtype=SUMS, device="meta", requires_grad=True)

    def watch(self, parts: Iterable[nn.Module]) -> None:
        """Listen to the routers in stages."""

        @torch.compiler.disable  # type: ignore[untyped-decorator]  # a graph could not tell a pass that runs again
        def listen(_module: nn.Module, _given: Any, output: Any) -> None:
            if self._logits is not None:  # no evaluation, and no layer that runs again
                self._logits.append(output[self._spec.index] if isinstance(output, tuple) else output)

        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, self._spec.kind):
                module.register_forward_hook(listen)

    @contextlib.contextmanager
    def recording(self, found: list[Tensor]) -> Iterator[None]:
        """Add the sums of the forward pass inside, (2, experts), to `found`."""
        logits: list[Tensor] = []
        self._logits = logits
        try:
            yield
        finally:
            self._logits = None
        nothing = torch.zeros(2, self._spec.experts, dtype=SUMS, device=self._device)
        found.append(sums_of(logits, self._spec.top_k) if logits else nothing)

    def expect(self, sums: Tensor) -> None:
        """Say the sums of all routers for the microbatch whose loss is asked for next."""
        self._whole.append(sums)

    def next_loss(self) -> Tensor | float:
        """Return this rank's share of the loss of the next microbatch, times its coefficient and `scale`; 0 in an evaluation."""
        if not self._whole:
            return 0.0
        own = self._whole.popleft()
        chosen = own[0].detach()
        for group in self._ranks:
            chosen = group.sum(chosen)
        loss = load_balancing_loss(torch.stack([chosen, own[1]]), self._rows)
        return (self.scale * self._spec.coefficient * loss).float()
