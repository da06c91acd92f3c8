"""The longest sequence and the largest batch: `search` confirms the answer, and trying every value finds none larger."""

from functools import partial
from typing import Any

import pytest

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.questions import largest_global_batch, largest_micro_batch, longest_sequence
from shardwright.planner.space import Fixed, asked
from shardwright.specs import TrainingSpec
from tests.planner.small_problems import Problem, random_problem, tiny_cluster, tiny_model

_SEEDS = range(4000, 4010)
_STEP = 512
_MOST = 48


def _fits(problem: Problem, fixed: Fixed | None = None, **changes: Any) -> bool:
    training = problem.training.model_copy(update=changes)
    try:
        search(problem.model, problem.cluster, training, fixed=fixed, runners_up=0, explain_none="nothing")
    except (SpecError, InfeasibleError):
        return False
    return True


def _tight(seed: int) -> Problem:
    """A random problem whose longest sequence lies within the values that a test can try one by one."""
    problem = random_problem(seed)
    memory = 1.2e9 + problem.model.parameter_count * 18 / problem.cluster.devices
    device = problem.cluster.node.device.model_copy(update={"memory_bytes": memory})
    group = problem.cluster.node.model_copy(update={"device": device})
    return problem._replace(cluster=problem.cluster.model_copy(update={"groups": (group,)}))


@pytest.mark.parametrize("seed", _SEEDS)
def test_longest_sequence_against_every_length(seed: int) -> None:
    problem = _tight(seed)
    longest = next((n for n in range(_MOST, 0, -1) if _fits(problem, seq_len=n * _STEP)), 0)
    if not longest:
        with pytest.raises((InfeasibleError, SpecError)):
            longest_sequence(*problem, step=_STEP, explain_none="nothing")
        return
    found = longest_sequence(*problem, step=_STEP)
    assert _fits(problem, seq_len=found.best.value)
    assert found.next_value == found.best.value + _STEP
    assert not _fits(problem, seq_len=found.next_value)
    assert found.next_fails_by
    if longest < _MOST:
        assert found.best.value == longest * _STEP
    else:
        assert found.best.value >= longest * _STEP
    assert found.searches <= 24


class TestLongestSequence:
    model, cluster = tiny_model(layers=4, vocab=20000), tiny_cluster(devices=4, memory_bytes=3e9)
    training = TrainingSpec(seq_len=1, global_batch=8)

    def test_a_batch_in_tokens_keeps_them(self) -> None:
        tokens = 64 * 1024
        found = longest_sequence(self.model, self.cluster, self.training, batch_tokens=tokens)
        for case in found.cases:
            assert case.training.seq_len * case.training.global_batch == tokens
        assert found.next_value is None or tokens % found.next_value == 0

    def test_no_length_divides_the_tokens(self) -> None:
        with pytest.raises(SpecError, match=r"holds no whole sequence in steps of 1024; give a multiple, such as 1024"):
            longest_sequence(self.model, self.cluster, self.training, batch_tokens=1000)

    def test_the_step_grows_to_what_fixed_degrees_must_divide(self) -> None:
        cluster = tiny_cluster(devices=6, memory_bytes=3e9)
        training = self.training.model_copy(update={"global_batch": 6})
        found = longest_sequence(self.model, cluster, training, fixed=Fixed(cp=3))
        assert found.best.value % (1024 * 3) == 0
        assert found.next_value == found.best.value + 3072

    def test_learned_positions_end_the_row(self) -> None:
        model = self.model.model_copy(update={"positions": 5000})
        found = longest_sequence(model, self.cluster, self.training)
        assert (found.best.value, found.next_value, found.next_fails_by) == (4096, None, None)

    @pytest.mark.parametrize("step", [0, -1024])
    def test_no_step(self, step: int) -> None:
        with pytest.raises(SpecError, match="give a whole number of tokens from 1"):
            longest_sequence(self.model, self.cluster, self.training, step=step)

    def test_what_is_too_large_already_at_the_step_says_why(self) -> None:
        with pytest.raises(InfeasibleError, match="no plan fits the host memory: the one that comes closest"):
            longest_sequence(self.model, tiny_cluster(devices=1, memory_bytes=3e8, host_bytes=1e8), self.training)

    def test_a_mistake_at_every_length_is_told(self) -> None:
        with pytest.raises(SpecError, match="tp 3"):
            longest_sequence(self.model, self.cluster, self.training, fixed=Fixed(tp=3))

    def test_choices_that_are_asked_for_are_kept(self) -> None:
        found = longest_sequence(self.model, self.cluster, self.training, fixed=asked({"cp": "1", "tp": "1"}))
        assert {(case.plan.mesh.cp, case.plan.mesh.tp) for case in found.cases} == {(1, 1)}


@pytest.mark.parametrize("seed", _SEEDS)
def test_largest_micro_batch_against_every_divisor(seed: int) -> None:
    problem = _tight(seed)
    problem = problem._replace(training=problem.training.model_copy(update={"global_batch": 24}))
    fits = partial(_fits, problem)
    fitting = [size for size in (1, 2, 3, 4, 6, 8, 12, 24) if fits(Fixed(micro_batch=size))]
    if not fitting:
        with pytest.raises((InfeasibleError, SpecError)):
            largest_micro_batch(*problem, explain_none="nothing")
        return
    found = largest_micro_batch(*problem)
    assert found.best.value == fitting[-1]
    assert [case.value for case in found.cases] == fitting
    assert all(case.plan.micro_batch == case.value for case in found.cases)
    assert found.fastest.estimate.tokens_per_s == max(case.estimate.tokens_per_s for case in found.cases)


def test_a_fixed_microbatch_is_refused() -> None:
    with pytest.raises(SpecError, match="micro_batch 2 is fixed, and it is what is asked for"):
        largest_micro_batch(*random_problem(1), fixed=Fixed(micro_batch=2))


class TestLargestGlobalBatch:
    model = tiny_model(layers=4, vocab=20000)
    training = TrainingSpec(seq_len=2048, global_batch=4)

    def test_accumulated_batches_all_fit(self) -> None:
        found = largest_global_batch(self.model, tiny_cluster(devices=4), self.training, up_to=256)
        assert (found.best.value, found.next_value) == (256, None)
        assert [case.value for case in found.cases] == [4, 8, 16, 32, 64, 128, 256]

    def test_gpipe_keeps_every_microbatch(self) -> None:
        cluster = tiny_cluster(devices=2, memory_bytes=3e9)
        fixed = Fixed(pp=2, schedule="gpipe", recompute="none", micro_batch=1, stages_per_rank=1)
        found = largest_global_batch(self.model, cluster, self.training, fixed=fixed)
        problem = Problem(self.model, cluster, self.training)
        largest = next(batch for batch in range(256, 3, -4) if _fits(problem, fixed, global_batch=batch))
        assert largest < 256
        assert found.best.value == largest
        assert found.next_value == found.best.value + 4

    @pytest.mark.parametrize("up_to", [0, 3, 2**31])
    def test_an_end_out_of_range(self, up_to: int) -> None:
        with pytest.raises(SpecError, match="give a number from the batch 4 to"):
            largest_global_batch(self.model, tiny_cluster(devices=4), self.training, up_to=up_to)
