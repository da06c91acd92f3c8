"""Many vectors of constants in one evaluation equal one estimate each."""

from dataclasses import fields, replace

import numpy as np
import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.constants import CALIBRATED, Constants
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.variants import step_seconds_by_variant
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_experts
from tests.costmodel.test_evaluate import H100, LLAMA, plan

VARIANTS = 3
# those that may be arrays; the others concern memory, intervals and the host
VARIED = [field.name for field in fields(Constants) if field.type is not float]
PLANS = [
    plan(1, zero=3, tp=1),
    plan(2, zero=2),
    plan(4, recompute="full", tp=8),
    plan(4, recompute="selective"),
    plan(4, chunks=2),
    plan(2, schedule="gpipe"),
    plan(4, schedule="zb-h1"),
    plan(4, schedule="zb-2p"),
    plan(4, chunks=2, schedule="zb-v"),
    plan(4, chunks=2, schedule="v-half"),
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


def both(one: Plan, training: TrainingSpec, model: ModelSpec = LLAMA) -> tuple[list[float], list[float]]:
    """Seconds from one evaluation, and from an estimate for each variant."""
    job, many = (model, H100, training), constants()
    each = [
        estimate_plan(*job, one, CatalogTimes(H100.node, training, single(many, i))).step_seconds
        for i in range(VARIANTS)
    ]
    times = CatalogTimes(H100.node, training, many)
    return step_seconds_by_variant(model, training, one, times, VARIANTS).tolist(), each


def training(**options: object) -> TrainingSpec:
    return TrainingSpec.parse({"seq_len": 4096, "global_batch": 64, **options}, source="test")


@pytest.mark.parametrize("one", PLANS, ids=lambda one: f"{one.mesh} {one.schedule}")
def test_variants_equal_one_estimate_each(one: Plan) -> None:
    together, each = both(one, training())
    assert together == pytest.approx(each)
    assert len(set(each)) == VARIANTS


@pytest.mark.parametrize("stack", ["internevo", "megatron-lm", "megatron-core", "dualpipe"])
def test_whatever_the_stack_makes_of_them(stack: str) -> None:
    for one in (plan(2), plan(4, chunks=2, schedule="dualpipe-v")):
        together, each = both(one, training(stack=stack))
        assert together == pytest.approx(each)


@pytest.mark.parametrize("options", [{"attention": "unfused"}, {"precision": {"linear": "fp8"}}], ids=str)
def test_whatever_the_kernels(options: dict[str, object]) -> None:
    together, each = both(plan(2), training(**options))
    assert together == pytest.approx(each)


@pytest.mark.parametrize("how", ["all-gather", "ring", "ulysses"])
def test_context_parallelism(how: str) -> None:
    split = {"mesh": Mesh(dp_shard=8, cp=8), "micro_batch": 8, "microbatches": 1, "context_parallel": how}
    one = Plan.parse({**plan(1, zero=3, tp=1).model_dump(), **split}, source="test")
    together, each = both(one, training())
    assert together == pytest.approx(each)


@pytest.mark.parametrize("dispatch", ["all-to-all", "deduplicated"])
def test_spread_experts(dispatch: str) -> None:
    stages = (Stage(layers=(LayerRun(count=4, zero_stage=1),)),)
    one = Plan.parse(
        {"mesh": Mesh(dp_shard=64, ep=8), "micro_batch": 1, "microbatches": 1, "stages": stages, "expert_dispatch": dispatch},
        source="test",
    )  # fmt: skip
    together, each = both(one, training(), small_experts(hidden=2048))
    assert together == pytest.approx(each)


def test_plain_numbers_make_every_variant_the_estimate() -> None:
    job = (LLAMA, H100, training())
    found = step_seconds_by_variant(LLAMA, training(), PLANS[0], CatalogTimes(H100.node, training()), 2)
    assert found.tolist() == pytest.approx([estimate_plan(*job, PLANS[0]).step_seconds] * 2)
