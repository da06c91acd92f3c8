"""Random valid jobs, each with many random candidates: what the vectorised path evaluates in one call."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from shardwright.base.arrays import IntArray
from shardwright.costmodel.even.closed_form import SCHEDULE_NAMES, EvenCosts, evaluate_even
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.specs.candidates import Candidates
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES
from shardwright.specs.stacks import stack_names
from shardwright.specs.training import TrainingSpec
from tests.laws.valid_runs import clusters, models


@dataclass(frozen=True)
class Specs:
    """One model, cluster and training with N candidates; `schedule`, `recompute` as `evaluate_even` takes them."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    candidates: Candidates
    schedule: IntArray
    recompute: IntArray

    def evaluate(self, cluster: ClusterSpec | None = None) -> EvenCosts:
        """Step and memory of each candidate, on `cluster` instead where it is given."""
        cluster = cluster or self.cluster
        times = CatalogTimes(cluster, self.training)
        return evaluate_even(
            self.model, cluster, self.training, self.candidates, times, schedule=self.schedule, recompute=self.recompute
        )


@st.composite
def specs(draw: st.DrawFn, candidates: int) -> Specs:
    layers = draw(st.integers(1, 24))
    training = TrainingSpec.parse(
        {
            "seq_len": 8 * draw(st.integers(1, 4000)),
            "global_batch": 1,  # of the whole run; the costs of a candidate are of its own microbatches
            "optimizer": draw(st.sampled_from(["adamw", "sgd"])),
            "attention": draw(st.sampled_from(["flash", "unfused"])),
            "precision": {
                "compute": draw(st.sampled_from(["bf16", "fp32"])),
                "gradients": draw(st.sampled_from(["bf16", "fp32"])),
            },
            "stack": draw(st.sampled_from(stack_names())),
        },
        source="test",
    )
    some, schedule = _candidates(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), candidates, layers)
    recompute = np.arange(candidates) % len(POLICIES)
    return Specs(draw(models(layers)), draw(clusters(64)), training, some, schedule, recompute)


def _candidates(chance: np.random.Generator, count: int, layers: int) -> tuple[Candidates, IntArray]:
    """Random degrees; interleaved stages only where the layers divide into them, or there is no closed form."""
    powers = {name: 2 ** chance.integers(0, 4, count) for name in ("dp_replicate", "dp_shard", "tp", "micro_batch")}
    pp = 1 + chance.integers(0, layers, count)
    chunks = chance.integers(1, 5, count)
    interleaved = (pp > 1) & (chunks > 1) & (layers % (pp * chunks) == 0)
    microbatches = chance.integers(1, 40, count)
    zero = np.where(powers["dp_shard"] > 1, chance.integers(1, 4, count), 0)
    some = Candidates(
        **powers,
        pp=pp,
        microbatches=np.where(interleaved, microbatches * pp, microbatches),
        stages_per_rank=np.where(interleaved, chunks, 1),
        zero_stage=zero,
        sequence_parallel=chance.integers(0, 2, count),
        host_optimizer=chance.integers(0, 2, count),
    )
    flat = np.where(chance.integers(0, 2, count), SCHEDULE_NAMES.index("gpipe"), SCHEDULE_NAMES.index("1f1b"))
    return some, np.where(interleaved, SCHEDULE_NAMES.index("interleaved-1f1b"), flat)
