"""The bias by which a router chooses experts, moved after each step towards experts that got few tokens.

DeepSeek-V3 balances its experts so, without a loss of their own (DeepSeek-AI 2024, arXiv 2412.19437, section 2.1.2): b_i goes up by a
fixed rate where expert i got fewer tokens of the step than the mean, and down where it got more. transformers has the bias, a buffer, and
leaves it as it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.experts import experts_paths
from shardwright.executor.model import read_skeleton

_BIAS = "e_score_correction_bias"
_DATA_AXES = ("dp_replicate", "dp_shard")


def check_router_bias(plan_file: PlanFile, rate: float | None) -> None:
    """Check that the model has routers with a bias, if a rate is given, and that what belongs to them is trained.

    Raises:
        SpecError: one line that says what to leave out.
    """
    if rate is None:
        return
    if not plan_file.training.trainable.trains_all:
        raise SpecError("--router-bias-rate moves biases of routers, which are frozen here; leave it out")
    if not routers([read_skeleton(plan_file).model]):
        raise SpecError(
            f"--router-bias-rate needs routers with a bias that is a buffer, as DeepSeek-V3's; {plan_file.model_name} has none; leave it out"
        )


def routers(parts: Iterable[nn.Module]) -> list[tuple[nn.Module, Tensor]]:
    """Return the experts of each layer that has any, with the bias of their router, (experts,)."""
    found = []
    for part in parts:
        for path in experts_paths(part):
            block = part.get_submodule(path.rpartition(".")[0])
            biases = [buffer for name, buffer in block.named_buffers() if name.rpartition(".")[2] == _BIAS]
            found += [(part.get_submodule(path), bias) for bias in biases[:1]]
    return found


class RouterBias:
    """Counts the tokens of each expert in a step's forward passes, and moves the biases of this rank's stages by `rate`.

    `mesh`: the engine's; the counts are summed over its ranks that hold the same stage. Ranks of tp count the same tokens.
    """

    def __init__(self, parts: Sequence[nn.Module], mesh: DeviceMesh, rate: float) -> None:
        self._rate, self._mesh = rate, mesh
        self._routers = routers(parts)
        self._counts = [torch.zeros_like(bias, dtype=torch.int64) for _, bias in self._routers]
        for (experts, _), counts in zip(self._routers, self._counts, strict=True):
            experts.register_forward_pre_hook(_counting(counts))

    def step(self, *, taken: bool = True) -> None:
        """Move the biases after a step that was `taken`, and forget its counts. Every rank calls this."""
        if not self._routers:
            return
        counts = torch.cat(self._counts)
        for axis in _DATA_AXES:
            if self._mesh[axis].size() > 1:
                dist.all_reduce(counts, group=self._mesh.get_group(axis))
        parts = torch.split(counts, [len(own) for own in self._counts])
        for (_, bias), own, of_step in zip(self._routers, self._counts, parts, strict=True):
            if taken:
                bias += self._rate * torch.sign(of_step.double().mean() - of_step).to(bias.dtype)
            own.zero_()


def _counting(counts: Tensor) -> Any:
    """Return a hook of experts that adds to `counts` (experts,) what each of them is given: (tokens, hidden), and (tokens, top-k) numbers
    of experts. Evaluations, and forward passes that run again in a backward pass, do not count."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a graph could not tell a pass that runs again
    def count(_module: nn.Module, given: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            counts.add_(torch.bincount(given[1].flatten(), minlength=len(counts)))

    return count
