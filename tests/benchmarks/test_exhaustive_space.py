"""The space that the closed form is timed on."""

import numpy as np

from shardwright.benchmarks.exhaustive_space import exhaustive_space
from shardwright.costmodel.even.closed_form import SCHEDULE_NAMES
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_model

TRAINING = TrainingSpec(seq_len=64, global_batch=4)


def test_two_devices_by_hand() -> None:
    """tp 2; or pp 2; or dp 2, in one group of two replicas or shards. KV heads allow tp 2.

    tp 2: 3 microbatch sizes x with and without sequence parallelism x GPipe and 1F1B: 12. pp 2: 3 sizes x GPipe and 1F1B,
    and for 2 and 4 microbatches interleaved 2 chunks: 8. dp 2: 2 sizes x (ZeRO 0, or 1, 2, 3) x GPipe and 1F1B: 16. Each
    with three policies and the optimizer on the device or the host.
    """
    space = exhaustive_space(small_model(layers=4), TRAINING, [2], most_tp=8)
    assert len(space) == (12 + 8 + 16) * 3 * 2


def test_no_plan_twice_and_each_divides() -> None:
    space = exhaustive_space(small_model(layers=4), TRAINING, [4, 8], most_tp=2)
    columns = np.stack([*vars(space.candidates).values(), space.schedule, space.recompute])
    assert np.unique(columns, axis=1).shape == columns.shape
    some = space.candidates
    assert set(some.ranks) == {4, 8}
    assert (some.dp_replicate * some.dp_shard * some.micro_batch * some.microbatches == 4).all()
    assert ((some.zero_stage == 0) == (some.dp_shard == 1)).all()
    interleaved = space.schedule == SCHEDULE_NAMES.index("interleaved-1f1b")
    assert ((some.stages_per_rank > 1) == interleaved).all()
    assert (some.microbatches[interleaved] % some.pp[interleaved] == 0).all()
