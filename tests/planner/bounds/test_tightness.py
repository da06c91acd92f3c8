"""Bounds are near the plans that they bound, for the kinds of jobs on which they once were far off."""

import numpy as np
import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.branching.branch_and_bound import BranchAndBound
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.training import TrainingSpec

_DEEPSEEK = ("deepseek-v3", "h800-sxm:2048", TrainingSpec(seq_len=4096, global_batch=15360))
_LLAMA = ("llama-3.1-405b", "h100-sxm:16384", TrainingSpec(seq_len=8192, global_batch=2048))
_ALONE = Fixed(dp_replicate=1, zero_stage=1, offload_optimizer=0, context_parallel="ring", micro_batch=1)


@pytest.mark.parametrize(
    ("job", "fixed", "most"),
    [
        # 58 layers of experts over 32 ranks: some rank holds two, though all layers are 1.9 a rank
        pytest.param(
            _DEEPSEEK,
            _ALONE.but(pp=32, tp=2, cp=2, ep=8, etp=0, schedule="1f1b", context_parallel="all-gather"),
            1.05,
            id="commonest class",
        ),
        # as many microbatches as stages: the last gradient waits for all backwards of the slowest stage
        pytest.param(_LLAMA, _ALONE.but(pp=64, tp=2, cp=4, schedule="1f1b"), 1.25, id="few microbatches"),
        # 126 layers in 64 stages of two: the 31 last stages hold 60 of them at least
        pytest.param(
            _LLAMA,
            _ALONE.but(pp=32, tp=4, cp=4, stages_per_rank=2, schedule="interleaved-1f1b"),
            1.15,
            id="layers below a rank",
        ),
        pytest.param(
            _LLAMA, _ALONE.but(pp=16, tp=8, cp=4, schedule="zb-h1"), 1.03, id="weight gradients in the bubble"
        ),
        pytest.param(_LLAMA, _ALONE.but(pp=16, tp=8, cp=4, schedule="zb-v"), 1.015, id="a V"),
        # the first stage holds 11 microbatches at most, each for a whole round trip
        pytest.param(
            _DEEPSEEK, _ALONE.but(pp=16, tp=2, cp=2, ep=64, etp=0, schedule="v-min"), 1.3, id="few microbatches held"
        ),
    ],
)
def test_bound_is_near_the_best_plan(job: tuple[str, str, TrainingSpec], fixed: Fixed, most: float) -> None:
    name, devices, training = job
    cluster = load_cluster(devices)
    run = BranchAndBound.start(load_model(name), cluster, training, fixed, op_times(cluster, training))
    ((entry,),) = np.nonzero(np.isfinite(run.entries.bounds))
    bound = run.entries.bound(int(entry))
    solved = run.solver.solve(int(entry), bound, np.inf).solved
    assert solved is not None
    assert 1 - 1e-9 <= solved.step_seconds / bound <= most
