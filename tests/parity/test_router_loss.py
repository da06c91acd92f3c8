"""A loss on routers under every plan equals that of transformers in one process, microbatch by microbatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.routers import losses
from shardwright.executor.routers.losses import RouterLoss
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import (
    LEARNING_RATE,
    STEPS,
    TOLERANCE,
    Run,
    batch,
    engine_runs,
    reference_model,
    worst_update_error,
)

_ASKED = {"output_router_logits": True, "router_aux_loss_coef": 2.0}
MIXTRAL, QWEN3, QWEN2, GPT_OSS = (FAMILIES[name] | _ASKED for name in ("mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss"))
QWEN3_4 = QWEN3 | {"num_hidden_layers": 4}


class _Case(NamedTuple):
    plan_file: PlanFile
    fault: Callable[[], None]


def _lose_the_loss() -> None:
    """Routers are trained by the cross-entropy alone."""
    RouterLoss.next_loss = lambda self: self._whole.popleft() is None and 0.0  # type: ignore[method-assign]


def _choose_by_own_tokens() -> None:
    """Ranks of cp count the choices of their own tokens."""
    start = RouterLoss.__init__

    def alone(self: RouterLoss, spec: Any, **given: Any) -> None:
        start(self, spec, **{**given, "ranks": ()})

    RouterLoss.__init__ = alone  # type: ignore[method-assign]


def _forget_other_stages() -> None:
    """A stage hands on its own sums alone."""
    RouterLoss.expect = _own_alone  # type: ignore[method-assign]


def _own_alone(self: RouterLoss, sums: Tensor) -> None:
    self._whole.append(sums / 2)


def _add_up_microbatches() -> None:
    """The loss of microbatches is summed and not averaged."""
    read = RouterLoss.next_loss

    def twice(self: RouterLoss) -> Any:
        return 2 * read(self)

    RouterLoss.next_loss = twice  # type: ignore[method-assign]


def _train_choices_twice() -> None:
    """Layers that run again in the backward pass are recorded too."""
    original = losses.sums_of
    losses.sums_of = lambda logits, top_k: original([*logits, *logits[:1]], top_k)


_TWO = ((layers(1),), (layers(1),))
CASES = {
    "one rank, microbatches": _Case(plan_file(MIXTRAL, plan((layers(),), microbatches=2)), _add_up_microbatches),
    "full recompute": _Case(plan_file(QWEN2, plan((layers(recompute="full"),))), _train_choices_twice),
    "zero 3": _Case(plan_file(QWEN3, plan((layers(zero=3),), dp_shard=2)), _lose_the_loss),
    "tp": _Case(plan_file(QWEN3, plan((layers(),), tp=2)), _lose_the_loss),
    "tp without sequence parallelism": _Case(
        plan_file(MIXTRAL, plan((layers(),), tp=2, sequence_parallel=False)), _lose_the_loss
    ),
    "ep": _Case(plan_file(MIXTRAL, plan((layers(zero=2),), dp_shard=2, ep=2)), _lose_the_loss),
    "cp by ring": _Case(plan_file(QWEN3, plan((layers(),), cp=2, context_parallel="ring")), _choose_by_own_tokens),
    "1f1b, loss in chunks": _Case(plan_file(QWEN3, plan(*_TWO, pp=2), loss_chunks=2), _forget_other_stages),
    "interleaved, zero 2, ep": _Case(
        plan_file(QWEN3_4, plan(*[(layers(1, zero=2),)] * 4, pp=2, dp_shard=2, ep=2, schedule="interleaved-1f1b")),
        _lose_the_loss,
    ),
    "zb-h1": _Case(plan_file(MIXTRAL, plan(*_TWO, pp=2, microbatches=4, schedule="zb-h1")), _forget_other_stages),
    "gpt-oss, pp": _Case(plan_file(GPT_OSS, plan(*_TWO, pp=2), attention="unfused"), _lose_the_loss),
    "pp and ep over cp": _Case(plan_file(QWEN3, plan(*_TWO, pp=2, cp=2, ep=2, microbatches=4)), _choose_by_own_tokens),
}


# a world serves several in turn
IN_TURN = sorted(CASES, key=lambda name: CASES[name].plan_file.plan.mesh.ranks)


def _reference(case: PlanFile) -> Run:
    model: Any = reference_model(case)
    before = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    parts, totals = case.plan.mesh.dp * case.plan.microbatches, []
    for step in range(STEPS):
        inputs, labels = batch(step, case)
        total = 0.0
        for given, wanted in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
            found = model(input_ids=given, output_router_logits=True)
            logits = found.logits.float().flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, wanted.flatten(), reduction="sum") / (labels != -100).sum()
            loss = loss + model.router_aux_loss_coef * found.aux_loss / parts
            torch.autograd.backward(loss)
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        totals.append(total)
    after = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    return Run(before, after, tuple(totals), ())


@pytest.mark.parametrize("name", IN_TURN)
def test_updates_equal_those_of_one_process(name: str) -> None:
    case = CASES[name].plan_file
    own, reference = engine_runs(case), _reference(case)
    assert worst_update_error(own, reference) <= TOLERANCE
    for run in own:
        assert run.losses == pytest.approx(reference.losses, rel=1e-5)


@pytest.mark.parametrize("name", IN_TURN)
def test_a_fault_shows_in_the_updates(name: str) -> None:
    case, fault = CASES[name]
    assert worst_update_error(engine_runs(case, sabotage=fault), _reference(case)) > TOLERANCE
