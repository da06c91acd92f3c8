"""Tokens that travel to experts as means: updates equal those of a plain implementation in one process, and faults show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from shardwright.costmodel.layers.core.averaging import AVERAGING_KERNELS
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.experts import centroids, exchange
from shardwright.executor.model.moves import MeshRanks
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import LEARNING_RATE, STEPS, Run, batch, engine_runs, reference_model, worst_update_error
from tests.parity.worlds import run_world

PER, TOLERANCE = 3, 1e-5


def _codes(token: Tensor) -> tuple[int, ...]:
    """The nearest vertex of each of six cross-polytopes with eight axes."""
    axes = torch.randn(len(token), 6 * 8, generator=torch.Generator().manual_seed(2411_08446))
    found = []
    for projected in (token.detach() @ axes).chunk(6):
        axis = max(range(8), key=lambda index: abs(float(projected[index])))
        found.append(2 * axis + (float(projected[axis]) < 0))
    return tuple(found)


def lsh_moe(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Algorithm 1 of LSH-MoE for the tokens of one rank, with groups of `PER` tokens in the order of their codes."""
    codes, output = [_codes(token) for token in hidden], torch.zeros_like(hidden)
    for expert in range(experts.num_experts):
        tokens = sorted((chosen == expert).any(1).nonzero().flatten().tolist(), key=lambda token: codes[token])
        for first in range(0, len(tokens), PER):
            group = tokens[first : first + PER]
            centroid = hidden[group].mean(0, keepdim=True)
            one = torch.ones(1, 1)
            result = type(experts).forward(experts, centroid, torch.full((1, 1), expert), one)
            for token in group:
                weight = weights[token][chosen[token] == expert]
                change = weight * (result[0] + hidden[token] - centroid[0])
                output = output.index_add(0, torch.tensor([token]), change[None])
    return output


def reference(file: PlanFile, sharing: int) -> Run:
    """Train in one process, one microbatch of one data-parallel rank after the other. `sharing`: ranks among which tokens are split."""
    model, given = reference_model(file), file.plan
    for module in model.modules():
        if hasattr(module, "gate_up_proj"):
            owner: Any = module
            owner.forward = lambda hidden, chosen, weights, owner=owner: torch.cat(
                [
                    lsh_moe(owner, *part)
                    for part in zip(*(t.chunk(sharing) for t in (hidden, chosen, weights)), strict=True)
                ]
            )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        inputs, labels = batch(step, file)
        counted = int((labels != -100).sum())
        for own, wanted in zip(*(t.chunk(given.mesh.dp * given.microbatches) for t in (inputs, labels)), strict=True):
            logits = model(input_ids=own).logits.flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, wanted.flatten(), reduction="sum") / counted
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return Run(before, {name: value.detach() for name, value in model.named_parameters()}, (), ())


def forget_the_residual() -> None:
    original = exchange._averaged
    exchange._averaged = lambda rows, *given: original(rows.detach() * 0, *given) + 0 * rows


def leave_tokens_in_their_order() -> None:
    owner: Any = exchange
    owner.buckets = lambda hidden: torch.zeros(len(hidden), dtype=torch.int64)


def keep_the_whole_residual() -> None:
    """Each rank that shares columns adds all of what a token differs by."""
    exchange.SpreadRanks.sharing_columns = property(lambda ranks: 1)  # type: ignore[assignment, method-assign]


CASES: dict[str, tuple[PlanFile, int, tuple[Callable[[], None], ...]]] = {
    "ep": (
        plan_file(FAMILIES["qwen3_moe"], plan((layers(zero=2),), dp_shard=2, ep=2), tokens_per_centroid=PER),
        1,
        (forget_the_residual, leave_tokens_in_their_order),
    ),
    "ep over tp, full recompute": (
        plan_file(
            FAMILIES["mixtral"],
            plan((layers(zero=1, recompute="full"),), dp_shard=2, tp=2, ep=4),
            tokens_per_centroid=PER,
        ),
        2,
        (leave_tokens_in_their_order,),
    ),
    "ep that shares columns": (
        plan_file(
            FAMILIES["qwen3_moe"], plan((layers(zero=2),), dp_shard=2, tp=2, ep=2, etp=2), tokens_per_centroid=PER
        ),
        1,
        (keep_the_whole_residual,),
    ),
}


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the operators that compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = ("view", "expand", "slice", "unsqueeze", "detach", "empty", "split", "wait_tensor", "select")
        name = func.overloadpacket.__name__
        self.count += not func.is_view and not name.startswith(views) and name != "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def _kernels(per_centroid: int) -> tuple[int, int]:
    """Of one rank's experts, forward and backward."""
    file = plan_file(FAMILIES["qwen3_moe"], plan((layers(),)))
    layer = next(part for part in reference_model(file).modules() if hasattr(part, "gate_up_proj"))
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("ep",))
    exchange.spread_experts(layer, exchange.SpreadRanks(MeshRanks(mesh), mesh, (0, 1), 1.0, per_centroid))
    hidden, weights = torch.randn(16, 32, requires_grad=True), torch.rand(16, 2, requires_grad=True)
    with _Kernels() as forward:
        output = layer.forward(hidden, torch.arange(32).view(16, 2) % 4, weights)
    with _Kernels() as backward:
        output.sum().backward()
    return forward.count, backward.count


def test_launches_of_averaging_are_those_charged() -> None:
    ((means, plain),) = run_world(1, _both_kernels)
    assert tuple(more - fewer for more, fewer in zip(means, plain, strict=True)) == pytest.approx(
        AVERAGING_KERNELS, abs=3
    )


def _both_kernels() -> tuple[tuple[int, int], tuple[int, int]]:
    return _kernels(PER), _kernels(1)


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_plain_implementation(name: str) -> None:
    file, sharing, faults = CASES[name]
    expected = reference(file, sharing)
    assert worst_update_error(engine_runs(file), expected, beyond_rounding=True) <= TOLERANCE
    for fault in faults:
        assert worst_update_error(engine_runs(file, sabotage=fault), expected) > 100 * TOLERANCE, fault


def test_means_change_the_updates() -> None:
    """Else an engine that sends every token would pass."""
    file = CASES["ep"][0]
    plain = file.model_copy(update={"training": file.training.model_copy(update={"tokens_per_centroid": 1})})
    assert worst_update_error(engine_runs(plain), reference(file, 1)) > 100 * TOLERANCE


def test_groups_are_cut_expert_by_expert() -> None:
    """Five, none and three tokens for the experts of two ranks: groups of two, of which the last of an expert may have one."""
    groups = centroids.Centroids(torch.tensor([[5, 0], [3, 2]]), 2)
    assert groups.sent.tolist() == [[3, 0], [2, 1]]
    assert groups.of_token.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert groups.sizes.tolist() == [2, 2, 1, 2, 1, 2]


def test_tokens_in_one_direction_hash_alike() -> None:
    tokens = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    found = centroids.buckets(torch.cat([tokens, 3 * tokens, -tokens]))
    assert found[:4].tolist() == found[4:8].tolist()
    assert not set(found[:8].tolist()) & set(found[8:].tolist())
    assert 0 <= int(found.min()) <= int(found.max()) < centroids.BUCKETS
