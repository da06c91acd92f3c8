"""Optimizers of packages on one process's parameters: what they keep, what goes into a checkpoint and comes back."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from shardwright.base.errors import SpecError
from shardwright.executor.optimizers import checks
from shardwright.executor.optimizers.checks import check_clipping
from shardwright.executor.optimizers.local import _local
from shardwright.executor.optimizers.rules import LowRankRule, rule_of
from shardwright.executor.options import RunOptions
from shardwright.executor.run.checks import check_plan
from shardwright.executor.training.optimizer import HostedOptimizer, build_optimizer, host_optimizer, set_learning_rate
from shardwright.specs.optimizers import Optimizer
from shardwright.specs.plan import Offload
from tests.executor.runs import tiny
from tests.parity.cases import layers, plan
from tests.parity.worlds import run_world

BETAS, EPS = (0.9, 0.95), 1e-8


def take_steps(optimizer: HostedOptimizer, weight: nn.Parameter, steps: range) -> None:
    for step in steps:
        optimizer.set_learning_rate(0.01)
        generator = torch.Generator().manual_seed(step)
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


def hosted(method: str, shape: tuple[int, int]) -> tuple[HostedOptimizer, nn.Parameter]:
    model = nn.Linear(shape[1], shape[0], bias=False)
    weight = nn.Parameter(torch.ones(shape))
    model.weight = weight
    options = RunOptions(out=Path(), learning_rate=0.01, weight_decay=0.1)
    return host_optimizer([model], method, options, None), weight


@pytest.mark.parametrize(
    "method",
    [
        "lion",
        "muon",
        "adafactor",
        "soap:period=2",
        "galore:rank=4,period=3",
        "frugal:rank=4",
        "cosmos:rank=4",
        "sinkgd",
    ],
)
def test_a_state_that_was_read_goes_on_as_the_one_that_was_kept(method: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    kept, weight = hosted(method, (12, 8))
    take_steps(kept, weight, range(4))
    stored = {name: value.clone() for name, value in kept.device_state[weight].items()}
    other, again = hosted(method, (12, 8))
    again.data.copy_(weight.data)
    other.create_state()
    assert torch.equal(again, weight)  # creating a state moves nothing
    for name, value in other.device_state[again].items():
        value.copy_(stored[name])
    other.loaded()
    take_steps(kept, weight, range(4, 8))
    take_steps(other, again, range(4, 8))
    torch.testing.assert_close(again, weight)


@pytest.mark.parametrize("method", ["soap:period=2", "galore:rank=4,period=3"])
def test_a_state_that_was_only_created_starts_as_none(method: str) -> None:
    """Before the first step of a run in fp16, whose state must be there for a checkpoint."""
    pytest.importorskip("pytorch_optimizer")
    (one, weight), (other, again) = hosted(method, (12, 8)), hosted(method, (12, 8))
    other.create_state()
    take_steps(one, weight, range(3))
    take_steps(other, again, range(3))
    torch.testing.assert_close(again, weight)


def test_galore_is_that_of_the_package() -> None:
    """With a projection that stays, where both agree on when it is made; the package adds eps to the root before its correction."""
    package = pytest.importorskip("pytorch_optimizer")
    for shape in ((12, 8), (8, 12)):
        theirs = nn.Parameter(torch.zeros(shape))
        group = {"params": [theirs], "rank": 4, "update_proj_gap": 100, "scale": 0.25, "projection_type": "std"}
        reference = package.GaLore([group], lr=0.01, betas=BETAS, eps=1e-12, weight_decay=0.0)
        rule, own = rule_of(Optimizer.model_validate("galore:rank=4"), BETAS, 1e-12), torch.zeros(shape)
        assert isinstance(rule, LowRankRule)
        for step in range(4):
            gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
            theirs.grad = gradient.clone()
            reference.step()
            own += rule.update(gradient, 0.01, None)
        torch.testing.assert_close(own, theirs.detach(), rtol=1e-4, atol=1e-6)


def test_cosmos_keeps_the_statistic_of_the_columns_as_the_paper_writes_it() -> None:
    """U = QR(C U), S = U' C U with C = b U S U' + (1 - b) G' G of all n columns; V of G U; NORM of the whole update."""
    shape, rank, beta = (12, 8), 3, 0.95
    rule = rule_of(Optimizer.model_validate(f"cosmos:rank={rank}"), BETAS, EPS)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=generator)
    _, values, vectors = torch.linalg.svd(first, full_matrices=False)
    basis, statistic, second = vectors[:rank].T, torch.diag(values[:rank] ** 2), torch.zeros(shape[0], rank)
    for gradient in (first, *(torch.randn(shape, generator=generator) for _ in range(3))):
        change = rule.update(gradient, 0.5, None)
        columns = beta * basis @ statistic @ basis.T + (1 - beta) * gradient.T @ gradient
        basis = torch.linalg.qr(columns @ basis)[0]
        statistic = basis.T @ columns @ basis
        second = beta * second + (1 - beta) * (gradient @ basis) ** 2
        assert float(change.norm()) == pytest.approx(0.5 * shape[1] ** 0.5)
    for name, expected in (("basis", basis), ("statistic", statistic), ("second", second)):
        torch.testing.assert_close(rule.state[name], expected, rtol=1e-4, atol=1e-5)


def test_states_in_8_bits_are_near_those_in_32_and_come_back() -> None:
    pytest.importorskip("torchao")
    (eight, weight), (full, reference) = hosted("adamw8bit", (64, 64)), hosted("adamw", (64, 64))
    take_steps(eight, weight, range(4))
    take_steps(full, reference, range(4))
    moved = (reference - 1).norm()
    assert 1e-4 < float(((weight - reference).norm() / moved).detach()) < 0.05  # 8 bits show, and little
    stored = {name: value.clone() for name, value in eight.device_state[weight].items()}
    other, again = hosted("adamw8bit", (64, 64))
    again.data.copy_(weight.data)
    other.create_state()
    for name, value in other.device_state[again].items():
        value.copy_(stored[name])
    other.loaded()
    take_steps(eight, weight, range(4, 6))
    take_steps(other, again, range(4, 6))
    torch.testing.assert_close(again, weight)


def test_galore_in_8_bits_is_near_galore() -> None:
    pytest.importorskip("torchao")
    (eight, weight), (full, reference) = (hosted(f"galore:rank=64,bits={bits}", (128, 64)) for bits in (8, 32))
    take_steps(eight, weight, range(3))
    take_steps(full, reference, range(3))
    assert float(((weight - reference).norm() / (reference - 1).norm()).detach()) < 0.05


def test_what_cannot_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    off = tiny(plan((layers(),)).model_copy(update={"offload": Offload(optimizer_fraction=1)}), optimizer="muon")
    with pytest.raises(SpecError, match=r"optimizer muon has no update off the device; leave its state there"):
        check_plan(off)
    half, method = tiny(plan((layers(),))), Optimizer.model_validate("galore:layerwise=1")
    changes = {"precision": {"compute": "fp16"}, "optimizer": str(method), "optimizer_settings": {}}
    training = half.training.parse({**half.training.model_dump(), **changes}, source="test")
    with pytest.raises(SpecError, match="an update of each layer in the backward pass in fp16 can be estimated"):
        check_plan(half.model_copy(update={"training": training}))
    with pytest.raises(SpecError, match=r"the norm of all gradients is known, and clip_norm 1 waits for it; give"):
        check_clipping(method, 1.0)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    missing = {"soap": ("pytorch-optimizer", "optimizers"), "adamw8bit": ("torchao", "eight-bit")}
    for optimizer, (package, extra) in missing.items():
        told = rf"optimizer {optimizer} is run by {package}, which is not installed; pip install '\.\[{extra}\]'"
        with pytest.raises(SpecError, match=told):
            check_plan(tiny(plan((layers(),)), optimizer=optimizer))
    check_plan(tiny(plan((layers(),)), optimizer="muon"))


def on_shards(method: str) -> tuple[bool, dict[str, str]]:
    """As one of two ranks: whether updates of shards equal those of torch's optimizer on DTensors to the bit, and the types of the state."""
    mesh = init_device_mesh("cpu", (2,))
    ours, theirs = (
        nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None)) for _ in range(2)
    )
    parts = [nn.Linear(4, 6, bias=False) for _ in range(2)]
    for part, weight in zip(parts, (ours, theirs), strict=True):
        part.weight = weight
    options = RunOptions(out=Path(), learning_rate=0.01, weight_decay=0.1)
    hosted, plain = host_optimizer(parts[:1], method, options, None), build_optimizer(parts[1:], method, options)
    set_learning_rate(plain, 0.01)
    hosted.set_learning_rate(0.01)
    for step in range(3):
        gradient = torch.randn((6, 4), generator=torch.Generator().manual_seed(step))
        for weight in (ours, theirs):
            weight.grad = distribute_tensor(gradient, mesh, [Shard(0)], src_data_rank=None)
        hosted.step()
        plain.step()
    state, expected = hosted.device_state[ours], plain.state[theirs]
    assert state.keys() == expected.keys()
    pairs = [(ours, theirs), *((state[name], expected[name]) for name in state)]
    equal = all(torch.equal(_local(own), _local(other)) for own, other in pairs)
    return equal, {name: type(value).__name__ for name, value in state.items()}


@pytest.mark.parametrize(
    ("method", "types"),
    [
        ("adamw", {"step": "Tensor", "exp_avg": "DTensor", "exp_avg_sq": "DTensor"}),
        ("sgd:momentum=0.9", {"momentum_buffer": "DTensor"}),
    ],
)
def test_updates_of_shards_are_those_of_distributed_tensors(method: str, types: dict[str, str]) -> None:
    for equal, found in run_world(2, on_shards, method):
        assert equal
        assert found == types
