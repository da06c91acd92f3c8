"""Every size that must divide, and the line that a user reads when it does not."""

import pytest

from shardwright.costmodel import InfeasibleError, SpecError, check_memory, check_plan, estimate_plan
from shardwright.costmodel.plan import LayerRun, Mesh, Plan, Stage
from shardwright.costmodel.training import TrainingSpec
from tests.costmodel.fakes import round_cluster, small_model

TRAINING = TrainingSpec(seq_len=128, global_batch=16)


def plan(
    *, layers: tuple[int, ...] = (4,), micro_batch: int = 2, microbatches: int = 8, zero: int = 0, **mesh: int
) -> Plan:
    stages = tuple(Stage(layers=(LayerRun.parse({"count": n, "zero_stage": zero}, source="test"),)) for n in layers)
    return Plan(
        mesh=Mesh.parse({"pp": len(layers), **mesh}, source="test"),
        micro_batch=micro_batch,
        microbatches=microbatches,
        stages=stages,
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            plan(dp_replicate=16, microbatches=1, micro_batch=1),
            r"needs 16 ranks \(dp_replicate16\) and round has 8 devices",
        ),
        (plan(layers=(1, 1, 1, 1, 1)), "5 stages are more than the 4 layers of small"),
        (plan(layers=(2, 3)), "hold 5 layers and small has 4"),
        (plan(microbatches=7), "dp 1 x micro batch 2 x 7 microbatches is 14 sequences, the global batch is 16"),
        (plan(tp=3), "tp 3 does not divide the 4 attention heads of small; allowed: 1, 2$"),
        (plan(tp=4), "tp 4 does not divide the 2 KV heads of small; allowed: 1, 2"),
    ],
)
def test_what_does_not_divide_is_named(wrong: Plan, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        check_plan(wrong, small_model(), round_cluster(), TRAINING)


def test_a_sequence_that_tp_does_not_divide() -> None:
    with pytest.raises(SpecError, match="tp 2 does not divide the 127 tokens of a sequence"):
        check_plan(plan(tp=2), small_model(), round_cluster(), TrainingSpec(seq_len=127, global_batch=16))


def test_a_sequence_longer_than_learned_positions() -> None:
    model = small_model().model_copy(update={"positions": 64})
    with pytest.raises(SpecError, match="sequence length 128 is more than the 64 learned positions"):
        check_plan(plan(), model, round_cluster(), TRAINING)


def test_a_good_plan_passes() -> None:
    check_plan(plan(layers=(2, 2), tp=2, dp_replicate=2, microbatches=4), small_model(), round_cluster(), TRAINING)


def test_memory_names_the_rank_and_how_much_is_missing() -> None:
    small = round_cluster(memory_bytes=1e9)
    estimate = estimate_plan(small_model(hidden=1024), small, TRAINING, plan(layers=(1, 3)))
    assert estimate.memory[1].total > 1e9
    with pytest.raises(
        InfeasibleError, match=r"pipeline rank \d needs \d\.\d GiB and round has 0\.9 usable: \d\.\d GiB too much"
    ):
        check_memory(estimate, small)
    check_memory(estimate, round_cluster())
