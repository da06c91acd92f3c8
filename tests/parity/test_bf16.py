"""bf16 compute over fp32 parameters: a divided run against the same precision on one rank."""

from collections.abc import Callable

import pytest

from shardwright.specs.plan import Plan
from tests.parity import sabotage
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import Run, engine_runs, reference_run, worst_update_error

QWEN3 = model_config("qwen3", initializer_range=0.05)
BF16_TOLERANCE = 0.1
"""bf16 keeps 8 bits (relative steps of 4e-3); sums of such products in another order differ by several of them."""
PLANS = {
    "zero 3": plan((layers(zero=3),), dp_shard=2),
    "tp": plan((layers(),), tp=2),
    "cp": plan((layers(zero=3),), cp=2, context_parallel="ring"),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "zb-h1": plan((layers(1, zero=1),), (layers(1, zero=1),), pp=2, dp_shard=2, microbatches=4, schedule="zb-h1"),
    "all": plan((layers(1, zero=3, recompute="full"),), (layers(1, zero=2),), pp=2, dp_shard=2, tp=2),
}


def _one_rank() -> Run:
    return engine_runs(plan_file(QWEN3, plan((layers(),)), compute="bf16"))[0]


@pytest.mark.parametrize("divided", PLANS.values(), ids=PLANS)
def test_updates_are_close_to_those_of_one_rank(divided: Plan) -> None:
    own = engine_runs(plan_file(QWEN3, divided, compute="bf16"))
    assert worst_update_error(own, _one_rank()) <= BF16_TOLERANCE


@pytest.mark.parametrize("divided", [PLANS["zero 3"], PLANS["all"]], ids=["zero 3", "all"])
def test_gradients_may_travel_in_bf16_too(divided: Plan) -> None:
    own = engine_runs(plan_file(QWEN3, divided, compute="bf16", gradients="bf16"))
    exact = engine_runs(plan_file(QWEN3, divided, compute="bf16"))
    assert 0 < worst_update_error(own, _one_rank()) <= BF16_TOLERANCE
    assert own[0].norms != exact[0].norms, "the reduction ignores its precision"


def test_updates_are_close_to_those_in_fp32_and_not_equal() -> None:
    reference = reference_run(plan_file(QWEN3, plan((layers(),))))
    error = worst_update_error([_one_rank()], reference)
    assert 1e-3 < error <= 2 * BF16_TOLERANCE


@pytest.mark.parametrize("fault", [sabotage.forget_head_norm_reduction, sabotage.lose_last_microbatch])
def test_a_fault_shows_in_bf16_too(fault: Callable[[], None]) -> None:
    own = engine_runs(plan_file(QWEN3, plan((layers(),), tp=2), compute="bf16"), sabotage=fault)
    assert worst_update_error(own, _one_rank()) > 2 * BF16_TOLERANCE
