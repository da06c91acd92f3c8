"""The bias of routers moves under every plan as in one process, and updates follow it.

The reference counts the tokens of each expert by the choice of the router itself, on the whole batch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.loop import router_bias
from shardwright.executor.loop.router_bias import RouterBias, check_router_bias
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import build_engine
from shardwright.executor.training.optimizer import host_optimizer
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import LEARNING_RATE, SEED, TOLERANCE, batch, own_share, reference_model
from tests.parity.worlds import run_again

RATE, STEPS = 0.05, 3
CONFIG = {**FAMILIES["deepseek_v3"], "first_k_dense_replace": 0}
PLANS = {
    "microbatches that run again": plan((layers(recompute="full"),), microbatches=4),
    "dp_shard, ep": plan((layers(zero=3, recompute="full"),), dp_shard=2, ep=2),
    "pp, tp": plan((layers(1),), (layers(1),), pp=2, tp=2),
    "hsdp, cp": plan((layers(zero=2),), dp_replicate=2, cp=2),
}


def _reference(file: PlanFile) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The biases and a weight of each layer after the steps, by transformers and torch alone."""
    model = reference_model(file)
    blocks: list[Any] = [part for part in model.modules() if hasattr(part, "gate") and hasattr(part, "experts")]
    chosen: dict[nn.Module, Tensor] = {}
    for block in blocks:
        block.experts.register_forward_pre_hook(lambda _, given, block=block: chosen.update({block: given[1]}))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        inputs, labels = batch(step, file)
        logits = model(input_ids=inputs).logits.float().flatten(0, 1)
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels.flatten()))
        optimizer.step()
        optimizer.zero_grad()
        for block in blocks:
            tokens = [int((chosen[block] == expert).sum()) for expert in range(len(block.gate.e_score_correction_bias))]
            mean = sum(tokens) / len(tokens)
            moves = [RATE if count < mean else -RATE if count > mean else 0.0 for count in tokens]
            block.gate.e_score_correction_bias += torch.tensor(moves)
    return _biases(model), {name: value.detach() for name, value in model.named_parameters()}


def _biases(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if name.endswith("e_score_correction_bias")}


def _engine_run(
    file: PlanFile, sabotage: Callable[[], None] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if sabotage is not None:
        sabotage()
    engine = build_engine(file, device=torch.device("cpu"), seed=SEED)
    options = RunOptions(out=Path(), learning_rate=LEARNING_RATE, weight_decay=0, clip_norm=None)
    optimizer = host_optimizer(engine.model_parts, "sgd", options, engine.offload)
    moving = RouterBias(engine.model_parts, engine.mesh, RATE)
    for step in range(STEPS):
        optimizer.set_learning_rate(LEARNING_RATE)
        given = own_share(engine, *batch(step, file))
        engine.forward_backward(*given)
        optimizer.step()
        moving.step()
        engine.zero_gradients()
        engine.evaluate(*own_share(engine, *batch(STEPS + step, file)))  # whose tokens do not count
    biases: dict[str, Tensor] = {}
    routers: dict[str, Tensor] = {}
    for part in engine.model_parts:
        biases |= _biases(part)
        for name, value in part.named_parameters():
            if name.endswith("gate.weight"):
                assert isinstance(value, DTensor)
                routers[name] = value.full_tensor().detach()
    return biases, routers


@pytest.mark.parametrize("name", PLANS)
def test_biases_and_routers_are_those_of_one_process(name: str) -> None:
    file = plan_file(CONFIG, PLANS[name])
    biases, weights = _reference(file)
    assert all(bias.abs().max() > 0 for bias in biases.values())
    runs = run_again(file.plan.mesh.ranks, _engine_run, file)
    assert set().union(*(own for own, _ in runs)) == set(biases)
    for own, routers in runs:
        for bias, value in own.items():
            torch.testing.assert_close(value, biases[bias])
        for router, value in routers.items():
            assert float((value - weights[router]).norm() / weights[router].norm()) <= TOLERANCE


def count_tokens_of_this_rank() -> None:
    router_bias._DATA_AXES = ()  # type: ignore[assignment]


def stay() -> None:
    RouterBias.step = lambda self, **_: None  # type: ignore[method-assign]


@pytest.mark.parametrize(("name", "fault"), [("dp_shard, ep", count_tokens_of_this_rank), ("pp, tp", stay)])
def test_a_fault_shows(name: str, fault: Callable[[], None]) -> None:
    file = plan_file(CONFIG, PLANS[name])
    biases, _ = _reference(file)
    runs = run_again(file.plan.mesh.ranks, _engine_run, file, fault)
    assert any(not torch.allclose(value, biases[bias]) for own, _ in runs for bias, value in own.items())


def test_a_model_without_such_routers_is_refused() -> None:
    with pytest.raises(
        SpecError, match="needs routers with a bias that is a buffer, as DeepSeek-V3's; tiny-mixtral has none"
    ):
        check_router_bias(plan_file(FAMILIES["mixtral"], plan((layers(),))), 0.001)
    check_router_bias(plan_file(CONFIG, plan((layers(),))), 0.001)
