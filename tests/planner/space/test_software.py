"""What a software runs bounds what may be fixed, and what the planner chooses."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.software import kept_by
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model


@pytest.mark.parametrize(
    ("stack", "fixed", "message"),
    [
        ("megatron-core", Fixed(zero_stage=3), "does not run zero_stage 3, only 0, 1; choose that"),
        ("fsdp", Fixed(pp=2), "does not run pp 2, only 1"),
        ("megatron-lm", Fixed(ep=2), "does not run ep 2, only 1"),
        (
            "hf-trainer",
            Fixed(context_parallel="ring"),
            "does not run context_parallel ring, nor any other; leave it out",
        ),
        ("nanotron", Fixed(schedule="interleaved-1f1b"), "only gpipe, 1f1b"),
        ("megatron-lm", Fixed(offload_optimizer=1), "does not run offload_optimizer 1, only 0"),
        ("megatron-lm", Fixed(even_stages=False), "does not run even_stages False, only True"),
    ],
)
def test_refuses_what_a_stack_does_not_run(stack: str, fixed: Fixed, message: str) -> None:
    training = TrainingSpec(seq_len=64, global_batch=8, stack=stack)
    with pytest.raises(SpecError) as caught:
        search(tiny_model(layers=6, experts=4), tiny_cluster(devices=8), training, fixed=fixed)
    assert message in str(caught.value)
    assert "another --stack" in str(caught.value)


def test_a_stack_without_uneven_stages_gets_even_ones() -> None:
    """6 layers over 4 ranks are uneven."""
    training = TrainingSpec(seq_len=64, global_batch=8, stack="megatron-lm")
    assert kept_by(Fixed(), training) == Fixed(even_stages=True)
    assert kept_by(Fixed(), TrainingSpec(seq_len=64, global_batch=8)) == Fixed()
    with pytest.raises(SpecError, match="even_stages needs pp that divides the 6 layers"):
        search(tiny_model(layers=6), tiny_cluster(devices=4), training, fixed=Fixed(pp=4))


def test_nobody_is_told_to_leave_out_what_the_stack_asks_for() -> None:
    """A batch of one on 8 ranks needs pp 4, or more; 6 layers don't divide."""
    training = TrainingSpec(seq_len=64, global_batch=1, stack="megatron-lm")
    with pytest.raises(SpecError, match="Choose another --stack than megatron-lm, which has no others"):
        search(tiny_model(layers=6), tiny_cluster(devices=8), training)
    own = TrainingSpec(seq_len=64, global_batch=1)
    with pytest.raises(SpecError, match="Leave out even_stages"):
        search(tiny_model(layers=6), tiny_cluster(devices=8), own, fixed=Fixed(even_stages=True))


def test_layers_in_pieces_of_the_sequence_keep_it_whole_on_a_rank() -> None:
    training = TrainingSpec(seq_len=4096, global_batch=8, sequence_chunks=4)
    kept = kept_by(Fixed(tp=2), training)
    assert (kept.cp, kept.sequence_parallel, kept.offload_activations) == (1, False, 0)
    assert kept_by(Fixed(), training.model_copy(update={"sequence_chunks": 1})) == Fixed()
    found = search(tiny_model(layers=4, hidden=256), tiny_cluster(devices=4), training, fixed=Fixed(tp=2))
    assert not found.plan.sequence_parallel
    assert found.plan.mesh.cp == 1
