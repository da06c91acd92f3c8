"""Linears in 8 bits train under every plan as in one process, which casts each microbatch as a whole.

A number at the edge between two of 8 bits falls to either side where sums are taken in another order, and what follows then differs
by whole digits. Real 8 bits are therefore compared where a plan takes no sum in another order, over one step; over tp and cp a smooth
function of the scaled operand stands for the cast, which shows a wrong scale as well and has no edges.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.low_precision import linears, scaled
from shardwright.executor.low_precision.linears import Scaling, scales_layer
from shardwright.executor.parallel import stage_builder
from shardwright.specs.plan import Plan
from shardwright.specs.training import Precision
from tests.parity import sabotage, updates
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import LEARNING_RATE, TOLERANCE, Run, batch, engine_runs, reference_model, worst_update_error

FAULT = 1e-2
"""At least this much a deliberate fault changes some update; good runs are below `TOLERANCE`."""

LLAMA, LLAMA_4, GPT2 = model_config("llama"), model_config("llama", layers=4), model_config("gpt2")
SHARED_EXPERTS = FAMILIES["qwen2_moe"]
"""Layers with experts, beside which an expert of all tokens is weighed by a linear; experts are no linears."""


class _Case(NamedTuple):
    plan_file: PlanFile
    faults: tuple[Callable[[], None], ...]


def _low(config: dict[str, Any], of_plan: Plan, **training: Any) -> PlanFile:
    given = plan_file(config, of_plan, seq_len=32)
    precision = Precision(compute="fp32", gradients="fp32", linear="fp8")
    return given.model_copy(update={"training": given.training.model_copy(update={"precision": precision, **training})})


def _keep_own_scales() -> None:
    """Every rank scales the part of an operand that it holds by itself."""
    start = Scaling.__init__

    def alone(self: Scaling, ranks: Any) -> None:
        start(self, [])

    Scaling.__init__ = alone  # type: ignore[method-assign]


def _keep_scales_of_tp() -> None:
    """Ranks of cp, each of which holds a part of the tokens, do not agree."""
    start = Scaling.__init__

    def alone(self: Scaling, ranks: Any) -> None:
        start(self, ranks[1:])

    Scaling.__init__ = alone  # type: ignore[method-assign]


def _cast_nothing() -> None:
    """Linears compute in the compute format."""
    Scaling.over = lambda self, layer: None  # type: ignore[method-assign]


def _cast_what_weighs_experts() -> None:
    """A linear that weighs the experts of all tokens computes in 8 bits as well."""
    linears._ROUTES = frozenset()


def _cast_gradients_as_inputs() -> None:
    """Gradients have more digits and a smaller range."""
    scaled.BACKWARD = scaled.FORWARD


def _lower_every_layer() -> None:
    """Layers that should keep the compute format do not."""
    stage_builder.scales_layer = lambda *given: True  # type: ignore[attr-defined]


_ONE, _TWO = (layers(),), ((layers(1),), (layers(1),))
CASES = {
    "tp": _Case(_low(LLAMA, plan(_ONE, tp=2)), (_keep_own_scales,)),
    "tp without sequence parallelism, full recompute": _Case(
        _low(LLAMA, plan((layers(recompute="full"),), tp=2, sequence_parallel=False)),
        (sabotage.keep_own_input_gradient,),
    ),
    "tp, gpt2": _Case(_low(GPT2, plan(_ONE, tp=2)), (_keep_own_scales,)),
    "cp by ring and tp, zero 1": _Case(
        _low(LLAMA, plan((layers(zero=1),), cp=2, tp=2, context_parallel="ring")), (_keep_scales_of_tp,)
    ),
    "zb-h1 and tp": _Case(
        _low(LLAMA, plan(*_TWO, pp=2, tp=2, microbatches=4, schedule="zb-h1")),
        (sabotage.lose_postponed_weight_gradients,),
    ),
    "experts over ep and tp": _Case(
        _low(SHARED_EXPERTS, plan((layers(zero=1),), dp_shard=2, tp=2, ep=2)),
        (_keep_own_scales, _cast_what_weighs_experts),
    ),
    "tp and pp, layers in high precision": _Case(
        _low(LLAMA_4, plan((layers(2),), (layers(2),), pp=2, tp=2), high_precision_layers=3), (_lower_every_layer,)
    ),
}
FAULTS = sorted(
    [(name, fault) for name, case in CASES.items() for fault in case.faults],
    key=lambda of: CASES[of[0]].plan_file.plan.mesh.ranks,  # a world serves several in turn
)
REAL = {
    "one rank": _Case(_low(LLAMA, plan(_ONE)), (_cast_nothing, _cast_gradients_as_inputs)),
    "zero 3": _Case(_low(LLAMA, plan((layers(zero=3),), dp_shard=2)), (sabotage.forget_data_parallel_average,)),
    "experts over ep": _Case(
        _low(SHARED_EXPERTS, plan((layers(zero=1),), dp_shard=2, ep=2)), (_cast_nothing, _cast_what_weighs_experts)
    ),
    "1f1b and zero 2": _Case(
        _low(GPT2, plan((layers(1, zero=2),), (layers(1, zero=2),), pp=2, dp_shard=2)),
        (sabotage.lose_gradient_between_stages,),
    ),
}


class _Operand(NamedTuple):
    values: Tensor
    scale: Tensor

    @property
    def turned(self) -> "_Operand":
        return _Operand(self.values.t(), self.scale)


_Cast = Callable[[Tensor, torch.dtype], _Operand]
FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


class _Emulated(torch.autograd.Function):
    """The three matmuls of a linear, of operands that are cast."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, cast: _Cast) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.cast = cast
        rows, columns = cast(hidden.flatten(0, -2), FORWARD), cast(weight, FORWARD)
        return _product(rows, columns, fast=True).view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        (hidden, weight), cast = ctx.saved_tensors, ctx.cast
        rows, columns = cast(hidden.flatten(0, -2), FORWARD), cast(weight, FORWARD)
        gradient = cast(gradients[0].flatten(0, -2), BACKWARD)
        of_hidden = _product(gradient, columns.turned)
        return of_hidden.view(*hidden.shape[:-1], -1), _product(gradient.turned, rows.turned), None


def _product(rows: _Operand, columns: _Operand, *, fast: bool = False) -> Tensor:
    """Rows (m, k) times columns (n, k) transposed."""
    scales = (rows.scale.reciprocal(), columns.scale.reciprocal())
    if rows.values.dtype == torch.float32:
        return rows.values @ columns.values.t() * scales[0] * scales[1]
    given = (rows.values.contiguous(), columns.values.contiguous().t())
    return torch._scaled_mm(*given, *scales, out_dtype=torch.float32, use_fast_accum=fast)


def _to_8_bits(operand: Tensor, dtype: torch.dtype) -> _Operand:
    scale = (torch.finfo(dtype).max / operand.abs().max().double()).float()
    return _Operand((operand * scale).to(dtype), scale)


def _bent(scaled_operand: Tensor, dtype: torch.dtype) -> Tensor:
    return scaled_operand * (1 + scaled_operand / (4 * torch.finfo(dtype).max))


def _to_bent(operand: Tensor, dtype: torch.dtype) -> _Operand:
    scale = (torch.finfo(dtype).max / operand.abs().max().double()).float()
    return _Operand(_bent(operand * scale, dtype), scale)


def _bend() -> None:
    """The engine's casts bend operands by their scales, in fp32."""

    def multiplied(
        rows: Tensor, columns: Tensor, of_rows: Tensor, of_columns: Tensor, _dtype: torch.dtype, **_: Any
    ) -> Tensor:
        return rows @ columns.t() / of_rows / of_columns

    scaled._cast = lambda operand, scale, dtype: _bent(operand * scale, dtype)
    scaled._multiplied = multiplied  # type: ignore[assignment]


def _emulate(layer: nn.Module, cast: _Cast) -> None:
    for name, module in layer.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and not name.endswith("shared_expert_gate"):
            own: Any = module

            def forward(hidden: Tensor, own: Any = own) -> Tensor:
                weight = own.weight if isinstance(own, nn.Linear) else own.weight.T
                product: Tensor = _Emulated.apply(hidden, weight, cast)  # type: ignore[no-untyped-call]  # torch's
                return product if own.bias is None else product + own.bias

            own.forward = forward


def _reference(case: PlanFile, cast: _Cast, steps: int) -> Run:
    """Train in one process, one microbatch of one data-parallel rank after the other."""
    model: Any = reference_model(case)
    count, high = case.plan.layer_count, case.training.high_precision_layers
    for index, layer in enumerate(model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers):
        if scales_layer(index, count, high):
            _emulate(layer, cast)
    before = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    parts = case.plan.mesh.dp * case.plan.microbatches
    for step in range(steps):
        inputs, labels = batch(step, case)
        for given, wanted in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
            logits = model(input_ids=given).logits.float().flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, wanted.flatten(), reduction="sum") / (labels != -100).sum()
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    after = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    return Run(before, after, (), ())


def _one_step() -> None:
    updates.STEPS = 1


def _real_error(case: PlanFile, *faults: Callable[[], None]) -> float:
    own = engine_runs(case, sabotage=_all((_one_step, *faults)))
    return worst_update_error(own, _reference(case, _to_8_bits, 1))


def _bent_error(case: PlanFile, *faults: Callable[[], None]) -> float:
    own = engine_runs(case, sabotage=_all((_bend, *faults)))
    return worst_update_error(own, _reference(case, _to_bent, updates.STEPS))


def _all(changes: tuple[Callable[[], None], ...]) -> Callable[[], None]:
    """Several changes of a rank's process."""
    return partial(_each, changes)


def _each(changes: tuple[Callable[[], None], ...]) -> None:
    for change in changes:
        change()


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_those_of_one_process(name: str) -> None:
    assert _bent_error(CASES[name].plan_file) <= TOLERANCE


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    assert _bent_error(CASES[name].plan_file, fault) > FAULT


@pytest.mark.parametrize("name", REAL)
def test_real_8_bits_are_those_of_one_process(name: str) -> None:
    assert _real_error(REAL[name].plan_file) <= TOLERANCE


@pytest.mark.parametrize("name", REAL)
def test_a_fault_shows_in_real_8_bits(name: str) -> None:
    for fault in REAL[name].faults:
        assert _real_error(REAL[name].plan_file, fault) > FAULT, fault
