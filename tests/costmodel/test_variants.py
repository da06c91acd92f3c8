"""Many vectors of constants in one evaluation equal one estimate each."""

from dataclasses import fields, replace

import numpy as np
import pytest

from shardwright.costmodel import estimate_plan
from shardwright.costmodel.catalog_times import CatalogTimes
from shardwright.costmodel.constants import CALIBRATED, Constants
from shardwright.costmodel.plan import Plan
from shardwright.costmodel.training import TrainingSpec
from shardwright.costmodel.variants import step_seconds_by_variant
from tests.costmodel.test_evaluate import H100, LLAMA, plan

VARIANTS = 3
# a field that is a number in `Constants` holds bytes or intervals, which no step time depends on
VARIED = [field.name for field in fields(Constants) if field.type != "float" and field.type is not float]
PLANS = [
    plan(1, zero=3, tp=1),
    plan(2, zero=2),
    plan(4, recompute="full", tp=8),
    plan(4, recompute="selective"),
    plan(4, chunks=2),
    plan(2, schedule="gpipe"),
    plan(4, schedule="zb-h1"),
    plan(4, chunks=2, schedule="zb-v"),
    plan(4, chunks=2, schedule="dualpipe-v"),
]


def constants() -> Constants:
    """Every constant once lower, once as calibrated, once higher, in an order of its own."""
    random = np.random.default_rng(0)
    return replace(
        CALIBRATED, **{name: getattr(CALIBRATED, name) * random.permutation([0.8, 1.0, 1.1]) for name in VARIED}
    )


def single(many: Constants, index: int) -> Constants:
    return replace(many, **{name: float(getattr(many, name)[index]) for name in VARIED})


def both(one: Plan, stack: str) -> tuple[list[float], list[float]]:
    training = TrainingSpec(seq_len=4096, global_batch=64, stack=stack)
    job, many = (LLAMA, H100, training), constants()
    each = [
        estimate_plan(*job, one, CatalogTimes(H100, training, single(many, i))).step_seconds for i in range(VARIANTS)
    ]
    return step_seconds_by_variant(*job, one, CatalogTimes(H100, training, many), VARIANTS).tolist(), each


@pytest.mark.parametrize("one", PLANS, ids=lambda one: f"{one.mesh} {one.schedule}")
def test_variants_equal_one_estimate_each(one: Plan) -> None:
    together, each = both(one, "shardwright")
    assert together == pytest.approx(each)
    assert len(set(each)) == VARIANTS


@pytest.mark.parametrize("stack", ["internevo", "megatron-lm", "megatron-core", "dualpipe"])
def test_whatever_the_stack_makes_of_them(stack: str) -> None:
    for one in (plan(2), plan(4, chunks=2, schedule="dualpipe-v")):
        together, each = both(one, stack)
        assert together == pytest.approx(each)


def test_plain_numbers_make_every_variant_the_estimate() -> None:
    training = TrainingSpec(seq_len=4096, global_batch=64)
    job = (LLAMA, H100, training)
    found = step_seconds_by_variant(*job, PLANS[0], CatalogTimes(H100, training), 2)
    assert found.tolist() == pytest.approx([estimate_plan(*job, PLANS[0]).step_seconds] * 2)
