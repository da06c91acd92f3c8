"""Bounds are near the plans that they bound, for the kinds of jobs on which they once were far off."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.training import TrainingSpec


@pytest.mark.parametrize(
    ("model", "cluster", "seq_len", "batch", "fixed", "gap"),
    [
        # 58 layers of experts over 32 ranks: some rank holds two, though all layers are 1.9 a rank
        pytest.param(
            *("deepseek-v3", "h800-sxm:2048", 4096, 15360),
            Fixed(
                pp=32, tp=2, cp=2, ep=8, dp_replicate=1, schedule="1f1b", micro_batch=1, zero_stage=1, recompute="none"
            ),
            *(0.05,),
            id="whole layers of the commonest class",
        ),
        # as many microbatches as stages: the last gradient waits for all backwards of the slowest stage
        pytest.param(
            *("llama-3.1-405b", "h100-sxm:16384", 8192, 2048),
            Fixed(pp=64, tp=2, cp=4, dp_replicate=1, schedule="1f1b", zero_stage=1, offload_optimizer=0),
            *(0.15,),
            id="few microbatches",
        ),
        # 126 layers in 64 stages of two: the 31 last stages hold 60 of them at least
        pytest.param(
            *("llama-3.1-405b", "h100-sxm:16384", 8192, 2048),
            Fixed(pp=32, tp=4, cp=4, dp_replicate=1, stages_per_rank=2, zero_stage=1, offload_optimizer=0),
            *(0.1,),
            id="layers below a rank",
        ),
    ],
)
def test_gap(model: str, cluster: str, seq_len: int, batch: int, fixed: Fixed, gap: float) -> None:
    training = TrainingSpec(seq_len=seq_len, global_batch=batch)
    found = search(load_model(model), load_cluster(cluster), training, fixed=fixed, runners_up=0)
    assert 0 <= found.gap <= gap
