"""The closed form over even stages, against the exact step and memory of the same plans one by one."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.benchmarks.exhaustive_space import ExhaustiveSpace, exhaustive_space
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import PlanCosts, plan_costs
from shardwright.costmodel.even.closed_form import SCHEDULE_NAMES, EvenCosts, evaluate_even
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.pipeline.step import step_seconds
from shardwright.specs.candidates import Candidates
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES, Plan
from shardwright.specs.schedules import ScheduleName, by_rank, even_stages
from shardwright.specs.training import TrainingSpec


class Job(NamedTuple):
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec

    def evaluate(self, space: ExhaustiveSpace) -> EvenCosts:
        times = CatalogTimes(self.cluster, self.training)
        return evaluate_even(
            *self, space.candidates, times, schedule=space.schedule, recompute=space.recompute
        )  # fmt: skip


def job(
    model: str, cluster: str, seq_len: int, global_batch: int, attention: str = "flash", stack: str = "shardwright"
) -> Job:
    training = TrainingSpec.parse(
        {"seq_len": seq_len, "global_batch": global_batch, "attention": attention, "stack": stack}, source="test"
    )
    return Job(load_model(model), load_cluster(cluster), training)


# Device counts differ within one call; models of one class and of several, dense and with experts, tied or not.
CASES = [
    (job("gpt3-175b", "h100-sxm:1024", 2048, 1536), [384, 512, 1024]),
    (job("llama-3.1-405b", "h100-sxm:1024", 8192, 256), [256, 1024]),
    (job("gpt2-1.5b", "a100-sxm-80gb:32", 1024, 64, "unfused"), [8, 32]),
    (job("deepseek-v2", "a100-sxm-80gb:128", 4096, 256), [32, 128]),
    (job("gemma-3-4b", "h100-pcie:16", 4096, 32), [1, 2, 16]),
    (job("llama-2-7b", "a100-sxm-80gb:128", 4096, 256, stack="internevo"), [64, 128]),
]


def some(space: ExhaustiveSpace, count: int) -> ExhaustiveSpace:
    index = np.random.default_rng(0).choice(len(space), count)
    return ExhaustiveSpace(space.candidates[index], space.schedule[index], space.recompute[index])


def exact(job: Job, space: ExhaustiveSpace, index: int) -> PlanCosts:
    values = {name: int(column[index]) for name, column in vars(space.candidates).items()}
    stages = even_stages(job.model.layer_count, values["pp"] * values["stages_per_rank"])
    layer = {"recompute": POLICIES[space.recompute[index]], "zero_stage": values["zero_stage"]}
    plan = {
        "mesh": {axis: values[axis] for axis in ("pp", "dp_replicate", "dp_shard", "tp")},
        "micro_batch": values["micro_batch"],
        "microbatches": values["microbatches"],
        "schedule": SCHEDULE_NAMES[space.schedule[index]],
        "stages": [{"layers": [{"count": count, **layer}]} for count in stages],
        "sequence_parallel": bool(values["sequence_parallel"]),
        "offload": {"optimizer_fraction": values["host_optimizer"]},
    }
    return plan_costs(*job, Plan.parse(plan, source="test"))


class TestAgainstEachPlanAlone:
    """600 random plans in all."""

    @pytest.mark.parametrize(
        ("job", "devices"), CASES, ids=lambda value: getattr(value, "model", None) and value.model.name
    )
    def test_step_within_one_percent_and_memory_equal(self, job: Job, devices: list[int]) -> None:
        space = some(exhaustive_space(job.model, job.training, devices, 8), 100)
        found = job.evaluate(space)
        for index in range(len(space)):
            costs = exact(job, space, index)
            stages, plan = costs.stage_costs(), costs.plan
            step = float(step_seconds(plan.schedule, stages, plan.microbatches))
            assert 0.99 * step <= found.step_seconds[index] <= step * (1 + 1e-9), plan
            if plan.schedule == "gpipe":
                assert found.step_seconds[index] == pytest.approx(step, rel=1e-9)
            own_work = plan.microbatches * by_rank(plan.schedule, plan.mesh.pp, stages.forward + stages.backward).sum(
                axis=0
            )
            assert found.step_seconds[index] >= own_work.max()
            memory = max(part.total for part in costs.memory())
            assert found.peak_bytes[index] == pytest.approx(memory, rel=1e-6)

    @pytest.mark.parametrize("stack", ["internevo", "megatron-deepspeed", "torchtitan"])
    def test_memory_equal_where_the_update_may_be_the_peak(self, stack: str) -> None:
        given, devices = CASES[2]
        training = given.training.model_copy(update={"stack": stack})
        one = given._replace(training=training)
        space = some(exhaustive_space(one.model, training, devices, 8), 20)
        found = one.evaluate(space)
        for index in range(len(space)):
            memory = exact(one, space, index).memory()
            assert found.peak_bytes[index] == pytest.approx(max(part.total for part in memory), rel=1e-6)
            assert all(part.allocated <= part.reserved * (1 + 1e-12) <= part.total * (1 + 1e-9) for part in memory)


class TestWhatHasNoClosedForm:
    """One plan that has none makes the whole call a mistake, and the line says which and why."""

    candidate = Candidates(**{name: np.array([1]) for name in Candidates.__dataclass_fields__})

    def evaluate(self, schedule: ScheduleName, **changes: int) -> None:
        job = CASES[0][0]
        one = replace(self.candidate, **{name: np.array([value]) for name, value in changes.items()})
        space = ExhaustiveSpace(one, np.array([SCHEDULE_NAMES.index(schedule)]), np.array([0]))
        job.evaluate(space)

    def test_stages_of_two_sizes_interleaved(self) -> None:
        with pytest.raises(SpecError, match=r"96 layers of .* do not divide into pp 4 x 5 stages"):
            self.evaluate("interleaved-1f1b", pp=4, stages_per_rank=5, microbatches=8)

    def test_more_stages_than_layers(self) -> None:
        with pytest.raises(SpecError, match="97 stages are more than the 96 layers"):
            self.evaluate("1f1b", pp=97, microbatches=8)

    def test_microbatches_that_do_not_divide(self) -> None:
        with pytest.raises(SpecError, match="microbatches divisible by pp: 13 by 4"):
            self.evaluate("interleaved-1f1b", pp=4, stages_per_rank=2, microbatches=13)


def test_no_candidates_cost_nothing() -> None:
    job = CASES[0][0]
    none = TestWhatHasNoClosedForm.candidate[np.array([], dtype=np.int64)]
    found = job.evaluate(ExhaustiveSpace(none, np.array([], dtype=np.int64), np.array([], dtype=np.int64)))
    assert found.step_seconds.shape == found.peak_bytes.shape == (0,)
