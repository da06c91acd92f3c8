"""Plans drawn at random over every dimension at once: no combination trains otherwise than one process."""

import random
from collections.abc import Callable
from typing import get_args

import pytest

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.plan import ContextParallel, LayerRun, RecomputePolicy
from tests.parity.cases import GLOBAL_BATCH, FamilyName, layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import assert_equal_to, engine_runs, reference_run


def _draw(seed: int) -> PlanFile:
    draw = random.Random(seed)
    family: FamilyName = draw.choice(get_args(FamilyName))
    while True:
        pp, dp_replicate, dp_shard, tp = (draw.choice([1, 1, 2]) for _ in range(4))
        microbatches = draw.choice([1, 2, 4])
        if pp * dp_replicate * dp_shard * tp >= 2 and GLOBAL_BATCH % (dp_replicate * dp_shard * microbatches) == 0:
            break
    interleaved = pp == 2 and microbatches > 1 and draw.random() < 0.5

    def layer() -> LayerRun:
        recompute: RecomputePolicy = draw.choice(get_args(RecomputePolicy))
        return layers(1, zero=draw.choice([1, 2, 3]) if dp_shard > 1 else 0, recompute=recompute)

    stages = [tuple(layer() for _ in range(draw.choice([1, 2]))) for _ in range(2 * pp if interleaved else pp)]
    return plan_file(
        model_config(
            family,
            layers=sum(map(len, stages)),
            tied=draw.random() < 0.5,
            vocab_size=draw.choice([100, 101]),
        ),
        plan(
            *stages,
            microbatches=microbatches,
            schedule="interleaved-1f1b" if interleaved else draw.choice(["gpipe", "1f1b"]),
            sequence_parallel=draw.random() < 0.6,
            offload=draw.random() < 0.25,
            pp=pp,
            dp_replicate=dp_replicate,
            dp_shard=dp_shard,
            tp=tp,
        ),
        attention=draw.choice(["flash", "unfused"]),
    )


def _draw_beside_cp(seed: int) -> PlanFile:
    """A plan with cp, and experts spread over whatever makes up a stage, in 4 or 8 ranks."""
    draw = random.Random(seed)
    pp, dp_shard, tp = draw.choice([(1, 2, 1), (1, 1, 2), (2, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)])
    kinds: list[ContextParallel] = ["all-gather", "ring", "ulysses"]
    microbatches = draw.choice([2, 4])
    runs = tuple(
        layers(1, zero=draw.choice([1, 2, 3]), recompute=draw.choice(get_args(RecomputePolicy))) for _ in range(2)
    )
    return plan_file(
        FAMILIES[draw.choice(["mixtral", "qwen2_moe", "qwen3_moe"])],
        plan(
            *([runs] if pp == 1 else [(run,) for run in runs]),
            microbatches=microbatches,
            context_parallel=draw.choice(kinds),
            pp=pp,
            dp_shard=dp_shard,
            cp=2,
            tp=tp,
            ep=draw.choice([1, 2]) * tp,
        ),
        loss_chunks=draw.choice([1, 3]),
    )


def _in_turn(draw: Callable[[int], PlanFile], count: int) -> list[int]:
    """The first seeds, by ranks: a world serves several in turn."""
    return sorted(range(count), key=lambda seed: draw(seed).plan.mesh.ranks)


@pytest.mark.parametrize("seed", _in_turn(_draw_beside_cp, 6))
def test_cp_beside_experts(seed: int) -> None:
    case = _draw_beside_cp(seed)
    assert_equal_to(reference_run(case, clip_norm=1.0), engine_runs(case, clip_norm=1.0), case.plan)


@pytest.mark.parametrize("seed", _in_turn(_draw, 12))
def test_updates_and_norms_equal_those_of_one_process(seed: int) -> None:
    case = _draw(seed)
    assert_equal_to(reference_run(case, clip_norm=1.0), engine_runs(case, clip_norm=1.0), case.plan)
