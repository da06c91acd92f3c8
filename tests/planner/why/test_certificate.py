"""The integer programs agree with the search, and object to a plan that is not the best."""

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.stages.labels import LabelSearch
from shardwright.planner.stages.partition import evaluate
from shardwright.planner.why.certificate import certify, partition_program
from shardwright.specs.plan import LayerRun, Offload, Stage
from shardwright.specs.training import TrainingSpec
from tests.planner.pipeline_tables import fitting_partitions, random_tables
from tests.planner.small_problems import random_problem, tiny_cluster, tiny_model


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_search(seed: int) -> None:
    """On a fixed pipeline the bound is not above the plan's step, and no much better partition is promised."""
    problem = random_problem(seed)
    try:
        found = search(*problem, fixed=Fixed(schedule="1f1b"), runners_up=0)
    except InfeasibleError:
        return
    certificate = certify(found.plan, *problem)
    assert certificate.optimal
    assert certificate.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)
    assert certificate.bound_seconds <= found.estimate.step_seconds * (1 + 1e-9)
    assert certificate.gap < 0.12


def test_confirms_a_large_partition_with_recomputation() -> None:
    model = tiny_model(layers=24, classes=2, hidden=1024, vocab=20000)
    cluster = tiny_cluster(devices=4, memory_bytes=3.2e9)
    training = TrainingSpec(seq_len=1024, global_batch=32)
    found = search(model, cluster, training, fixed=Fixed(pp=4, schedule="1f1b", micro_batch=1), runners_up=0)
    certificate = certify(found.plan, model, cluster, training)
    assert certificate.optimal
    assert certificate.mixes_agree
    assert certificate.gap < 0.01
    assert certificate.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)


def test_finds_that_a_lopsided_partition_is_not_the_best() -> None:
    model = tiny_model(layers=12, hidden=1024)
    cluster = tiny_cluster(devices=4)
    training = TrainingSpec(seq_len=1024, global_batch=32)
    best = search(model, cluster, training, fixed=Fixed(pp=4, schedule="1f1b"), runners_up=0)
    lopsided = best.plan.model_copy(
        update={"stages": tuple(Stage(layers=(LayerRun(count=count),)) for count in (1, 1, 1, 9))}
    )
    assert certify(lopsided, model, cluster, training).gap > 0.3


def test_refuses_schedules_whose_paths_it_does_not_know() -> None:
    model, cluster = tiny_model(layers=8), tiny_cluster(devices=2)
    training = TrainingSpec(seq_len=256, global_batch=8)
    found = search(model, cluster, training, fixed=Fixed(pp=2, schedule="zb-h1"), runners_up=0)
    with pytest.raises(
        SpecError, match="a certificate is for 1f1b and gpipe, whose paths it knows; this plan has zb-h1"
    ):
        certify(found.plan, model, cluster, training)


def test_refuses_stages_whose_memories_couple() -> None:
    model, cluster = tiny_model(layers=8), tiny_cluster(devices=2)
    training = TrainingSpec(seq_len=256, global_batch=8)
    found = search(model, cluster, training, fixed=Fixed(pp=2, schedule="interleaved-1f1b"), runners_up=0)
    with pytest.raises(SpecError, match="one stage on each rank"):
        certify(found.plan, model, cluster, training)


def test_stops_at_its_time() -> None:
    model, cluster = tiny_model(layers=24, hidden=1024), tiny_cluster(devices=8, memory_bytes=3.2e9)
    training = TrainingSpec(seq_len=1024, global_batch=64)
    found = search(model, cluster, training, fixed=Fixed(pp=8, schedule="1f1b"), runners_up=0)
    certificate = certify(found.plan, model, cluster, training, time_limit_seconds=0.05)
    assert certificate.bound_seconds <= certificate.step_seconds
    assert np.isfinite(certificate.step_seconds)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_bound_lies_between_the_labels_and_the_best(seed: int, schedule: str) -> None:
    """The program has the labels' paths and every rank's optimizer: not below the labels, not above any partition."""
    tables = random_tables(seed, layers=7, schedule=schedule)
    fitting = fitting_partitions(tables)
    if not len(fitting):
        return
    best = float(evaluate(tables, fitting, tails=tables.least_tail).min())
    program = partition_program(tables, 10 * best, 30.0)
    assert program.optimal
    labels = LabelSearch(tables, tables.feasible).run().bound_seconds
    assert labels * (1 - 1e-5) <= program.bound <= best * (1 + 1e-5)  # the solver's tolerance


@pytest.mark.parametrize(
    "fixed",
    [
        Fixed(tp=2, sequence_parallel=False, schedule="1f1b"),
        Fixed(pp=2, recompute="full", schedule="1f1b"),
        Fixed(pp=2, even_stages=True, schedule="1f1b"),
    ],
    ids=str,
)
def test_keeps_what_the_plan_keeps(fixed: Fixed) -> None:
    """Sequence parallelism, recomputation and even stages are part of what is certified: the bound is not of other plans."""
    model, cluster = tiny_model(layers=8, hidden=1024, vocab=20000), tiny_cluster(devices=4, memory_bytes=6e9)
    training = TrainingSpec(seq_len=1024, global_batch=16)
    found = search(model, cluster, training, fixed=fixed, runners_up=0)
    certificate = certify(found.plan, model, cluster, training, fixed=found.fixed)
    assert certificate.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)
    assert certificate.bound_seconds == pytest.approx(found.estimate.step_seconds, rel=0.02)
    assert certificate.mixes_agree


def test_bounds_what_leaves_the_device() -> None:
    """A plan with shares of the optimizer and of activations on the host; the program finds nothing much faster."""
    model, cluster = tiny_model(layers=8, hidden=1024), tiny_cluster(devices=2, memory_bytes=2.4e9)
    training = TrainingSpec(seq_len=4096, global_batch=8)
    shares = {"offload_optimizer": "0..1", "offload_activations": "0,0.5"}
    fixed = Fixed.parse({"schedule": "1f1b", "pp": 2, "within": shares}, source="test")
    found = search(model, cluster, training, fixed=fixed, runners_up=0)
    assert 0 < found.plan.offload.optimizer_fraction < 1
    certificate = certify(found.plan, model, cluster, training, fixed=fixed)
    assert certificate.placements > 1
    assert certificate.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)
    assert certificate.gap < 0.02
    worse = found.plan.model_copy(update={"offload": Offload(optimizer_fraction=1)})
    other = certify(worse, model, cluster, training, fixed=fixed)
    assert not other.mixes_agree
    assert other.bound_seconds <= found.estimate.step_seconds * (1 + 1e-6) < other.step_seconds
