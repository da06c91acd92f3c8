"""Plans drawn at random from the planner's own space: what it may choose for this executor runs, and trains as one process does.

`PARITY_PLANS=60 python -m pytest tests/parity/test_planned_plans.py` draws as many.
"""

import os
import random
from itertools import pairwise

import numpy as np
import pytest

from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.run.checks import check_plan
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.limits import Limit
from shardwright.planner.space.space import Space
from shardwright.planner.stages.solve_entry import Solved, plan_of
from shardwright.specs.choices import AXES
from shardwright.specs.mesh import ORDERS
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.training import Precision, TrainingSpec
from tests.parity.cases import GLOBAL_BATCH, SEQ_LEN, host, model_config, plan_file
from tests.parity.families import FAMILIES
from tests.parity.sabotage import forget_data_parallel_average
from tests.parity.updates import (
    TOLERANCE,
    assert_equal_but_for_rounding,
    engine_runs,
    reference_run,
    worst_update_error,
)

PLANS = int(os.environ.get("PARITY_PLANS", "4"))
DRAWN = ("llama", "qwen3", "gpt2", "mixtral", "qwen3_moe", "deepseek_v3", "gemma3_text")
LAYERS = 4


def _draw(seed: int) -> PlanFile:
    """A plan of a family in turn, on 2, 4 or 8 ranks: a mesh, then a schedule, then the rest, so that rare ones come up too."""
    draw, family = random.Random(seed), DRAWN[seed % len(DRAWN)]
    config = _config(family)
    training = TrainingSpec(
        seq_len=SEQ_LEN,
        global_batch=GLOBAL_BATCH,
        precision=Precision(compute="fp32", gradients="fp32"),
        optimizer="sgd",
        loss_chunks=draw.choice([1, 1, 2]),
    )
    model = model_from_config(config, name=family, source="")
    # a stated cp is not left out for short sequences
    fixed = Fixed(within=(Limit.read("cp", "1..8"),), order=draw.choice(ORDERS))
    space = enumerate_space(model, host(draw.choice([2, 4, 8, 8])), training, fixed)
    entries = np.arange(len(space))
    for columns in (
        draw.choice([("cp",), ("pp",), ("tp", "ep")]),
        AXES,
        ("context_parallel", "schedule", "stages_per_rank"),
    ):
        keys = list(zip(*(space.column(name, entries).tolist() for name in columns), strict=True))
        chosen = draw.choice(sorted(set(keys)))
        entries = entries[[key == chosen for key in keys]]
    chosen_plan = plan_of(_stages(draw, int(draw.choice(entries.tolist())), space, model), space, model)
    return plan_file(config, chosen_plan, loss_chunks=training.loss_chunks)


def _config(family: str) -> dict[str, object]:
    if family == "gpt2":
        return model_config("gpt2", layers=LAYERS)
    config = {**FAMILIES[family], "num_hidden_layers": LAYERS}
    if "layer_types" in config:
        config["layer_types"] = [kind for kind in config["layer_types"] for _ in range(LAYERS // 2)]
    return config


def _stages(draw: random.Random, entry: int, space: Space, model: ModelSpec) -> Solved:
    """Any sizes of the stages, and any allowed policy for each layer."""
    stages = int(space.column("pp")[entry]) * int(space.stages_per_rank[entry])
    cuts = sorted(draw.sample(range(1, model.layer_count), stages - 1))
    bounds = [0, *cuts, model.layer_count]
    allowed = space.runs(
        list(range(len(space.strategies))),
        splits=bool(space.splits[entry]),
        several=bool(space.stages_per_rank[entry] > 1),
    )
    mix = np.zeros((stages, len(set(model.class_of_layer)), len(space.strategies)), dtype=np.int64)
    for stage, (first, last) in enumerate(pairwise(bounds)):
        for layer in range(first, last):
            mix[stage, model.class_of_layer[layer], draw.choice(allowed)] += 1
    return Solved(entry, tuple(mix.sum(axis=(1, 2)).tolist()), mix, 0.0)


def test_a_lost_reduction_shows() -> None:
    case = next(drawn for drawn in map(_draw, range(100)) if drawn.plan.mesh.dp == drawn.plan.mesh.ranks == 2)
    own = engine_runs(case, sabotage=forget_data_parallel_average)
    assert worst_update_error(own, reference_run(case)) > TOLERANCE


@pytest.mark.parametrize("seed", range(PLANS))
def test_updates_and_norms_equal_those_of_one_process(seed: int) -> None:
    case = _draw(seed)
    check_plan(case)
    assert_equal_but_for_rounding(case, engine_runs(case, clip_norm=1.0), clip_norm=1.0)
