"""Random valid jobs, each with many random candidates: what the vectorised path evaluates in one call."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st

from shardwright.base.arrays import Array, IntArray
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.pipeline.in_flight import peak_activation_bytes
from shardwright.costmodel.pipeline.step import step_seconds
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.memory import fixed_bytes, receive_buffer_bytes
from shardwright.costmodel.tables.rows import RowCosts, ends_of, stage_seconds
from shardwright.specs.candidates import Candidates
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES
from shardwright.specs.schedules import ScheduleName, even_stages
from shardwright.specs.stack import stack_names
from shardwright.specs.training import TrainingSpec
from tests.laws.valid_runs import clusters, models, trainables

_SHAPES = 8
SCHEDULES: tuple[ScheduleName, ...] = ("gpipe", "1f1b", "interleaved-1f1b")


@dataclass(frozen=True)
class Evaluated:
    """Step seconds and peak bytes of the fullest rank, (N,)."""

    step_seconds: Array
    peak_bytes: Array


@dataclass(frozen=True)
class Specs:
    """One model, cluster and training with N candidates, their stages as even as can be.

    `schedule` holds indices into `SCHEDULES`, `recompute` into `POLICIES`.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    candidates: Candidates
    schedule: IntArray
    recompute: IntArray

    def evaluate(self, cluster: ClusterSpec | None = None) -> Evaluated:
        """Step and memory of each candidate, on `cluster` instead where it is given."""
        cluster = cluster or self.cluster
        times = op_times(cluster, self.training)
        rows = RowCosts.of(build_tables(self.model, self.training, self.candidates, times))
        fixed = fixed_bytes(self.candidates, times.node, times.constants, self.training.software)
        fixed = fixed + receive_buffer_bytes(self.model, self.training, self.candidates)
        seconds, peaks = np.zeros(len(self.candidates)), np.zeros(len(self.candidates))
        for alike in self._alike:
            seconds[alike], peaks[alike] = self._of_one_shape(rows[alike], alike)
        return Evaluated(seconds, peaks + fixed)

    @cached_property
    def _alike(self) -> list[IntArray]:
        """The candidates of each schedule and shape of pipeline: a batch to evaluate at once."""
        some = self.candidates
        shape = np.stack([self.schedule, some.pp, some.stages_per_rank, some.microbatches], axis=-1)
        _, place = np.unique(shape, axis=0, return_inverse=True)
        return [np.flatnonzero(place.reshape(-1) == number) for number in np.unique(place)]

    def _of_one_shape(self, rows: RowCosts, alike: IntArray) -> tuple[Array, Array]:
        first, some = int(alike[0]), self.candidates
        pp, microbatches = int(some.pp[first]), int(some.microbatches[first])
        schedule, stages = SCHEDULES[int(self.schedule[first])], pp * int(some.stages_per_rank[first])
        mixes, ends = self._mixes(stages)[self.recompute[alike]], ends_of(stages)
        per_stage = rows[:, None]
        costs = stage_seconds(per_stage, mixes, ends).costs(schedule, pp, rows.send[..., None])
        kept = peak_activation_bytes(schedule, pp, microbatches, per_stage.activation.total(mixes, ends))
        by_rank = mixes.reshape(len(alike), -1, pp, *mixes.shape[2:]).sum(axis=1)
        rank_ends = ends.reshape(-1, pp, 2).sum(axis=0)
        held, working = per_stage.held(by_rank.sum(axis=-1), rank_ends), per_stage.working.largest(by_rank, rank_ends)
        return step_seconds(schedule, costs, microbatches), held.peak_bytes(kept + working).max(axis=-1)

    def _mixes(self, stages: int) -> IntArray:
        """(P, S, K, P): every layer of an even partition under one policy, for each policy."""
        classes = np.array(self.model.class_of_layer)
        stage = np.repeat(np.arange(stages), even_stages(len(classes), stages))
        mixes = np.zeros((len(POLICIES), stages, classes.max() + 1, len(POLICIES)), dtype=np.int64)
        for policy in range(len(POLICIES)):
            np.add.at(mixes[policy, :, :, policy], (stage, classes), 1)
        return mixes


@st.composite
def specs(draw: st.DrawFn, candidates: int) -> Specs:
    layers = draw(st.integers(1, 24))
    model = draw(models(layers))
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
            "trainable": draw(trainables(model, lower=False)),
        },
        source="test",
    )
    some, schedule = _candidates(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), candidates, layers)
    recompute = np.arange(candidates) % len(POLICIES)
    return Specs(model.trained_as(training.trainable), draw(clusters(64)), training, some, schedule, recompute)


def _candidates(chance: np.random.Generator, count: int, layers: int) -> tuple[Candidates, IntArray]:
    """Random degrees; interleaved stages only where there are layers for them."""
    powers = {name: 2 ** chance.integers(0, 4, count) for name in ("dp_replicate", "dp_shard", "tp", "micro_batch")}
    shape = chance.integers(0, _SHAPES, count)  # few shapes of pipeline, each with many other choices
    pp = (1 + chance.integers(0, layers, _SHAPES))[shape]
    chunks = chance.integers(1, 5, _SHAPES)[shape]
    interleaved = (pp > 1) & (chunks > 1) & (layers >= pp * chunks)
    microbatches = chance.integers(1, 40, _SHAPES)[shape]
    zero = np.where(powers["dp_shard"] > 1, chance.integers(1, 4, count), 0)
    some = Candidates(
        **powers,
        pp=pp,
        microbatches=np.where(interleaved, microbatches * pp, microbatches),
        stages_per_rank=np.where(interleaved, chunks, 1),
        zero_stage=zero,
        sequence_parallel=chance.integers(0, 2, count),
        offload_optimizer=chance.integers(0, 2, count),
    )
    flat = np.where(chance.integers(0, 2, _SHAPES)[shape], SCHEDULES.index("gpipe"), SCHEDULES.index("1f1b"))
    return some, np.where(interleaved, SCHEDULES.index("interleaved-1f1b"), flat)
