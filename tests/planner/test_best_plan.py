"""The search as its users see it."""

import subprocess
import sys

import pytest

import shardwright.planner
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory, check_plan
from shardwright.costmodel.evaluate import estimate_plan, simulate_plan
from shardwright.planner.best_plan import search
from shardwright.planner.branching.branch_and_bound import BranchAndBound
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.why.certificate import certify
from shardwright.planner.why.sentences import explain
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL = tiny_model(layers=16, classes=2, hidden=1024, vocab=2000)
_CLUSTER = tiny_cluster(devices=16, devices_per_node=8, memory_bytes=4e9)
_TRAINING = TrainingSpec(seq_len=1024, global_batch=64)


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return search(_MODEL, _CLUSTER, _TRAINING)


def test_estimate_is_the_cost_models(found: SearchResult) -> None:
    assert found.estimate == estimate_plan(_MODEL, _CLUSTER, _TRAINING, found.plan)
    check_memory(found.estimate, _CLUSTER)


def test_simulation_takes_as_long(found: SearchResult) -> None:
    """What is minimised is the simulated step, so that simulating the best few could not change their order."""
    timeline = simulate_plan(_MODEL, _CLUSTER, _TRAINING, found.plan)
    assert timeline.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_layers_that_keep_nothing_on_the_device_are_searched() -> None:
    """With all activations and the optimizer on the host."""
    training = _TRAINING.model_copy(update={"activation_offload_layers": 16})
    offloaded = search(_MODEL, _CLUSTER, training, fixed=Fixed(offload_optimizer=1, zero_stage=3))
    assert offloaded.estimate == estimate_plan(_MODEL, _CLUSTER, training, offloaded.plan)
    assert offloaded.bound_seconds <= offloaded.estimate.step_seconds * (1 + 1e-12)


def test_bound_and_counts(found: SearchResult) -> None:
    assert found.complete
    assert 0 <= found.gap < 0.12
    assert found.bound_seconds <= found.estimate.step_seconds * (1 + 1e-12)
    assert 0 < found.candidates_solved <= found.candidates_total


def test_runners_up_have_other_meshes_and_are_not_faster(found: SearchResult) -> None:
    meshes = [found.plan.mesh, *(runner.plan.mesh for runner in found.runners_up)]
    assert len(found.runners_up) == 3
    assert len(set(meshes)) == len(meshes)
    seconds = [runner.step_seconds for runner in found.runners_up]
    assert seconds == sorted(seconds)
    assert seconds[0] >= found.estimate.step_seconds
    for runner in found.runners_up:
        estimate = estimate_plan(_MODEL, _CLUSTER, _TRAINING, runner.plan)
        assert estimate.step_seconds == pytest.approx(runner.step_seconds, rel=1e-9)
        check_memory(estimate, _CLUSTER)


def test_time_limit_returns_the_best_so_far_with_its_gap() -> None:
    hurried = search(_MODEL, _CLUSTER, _TRAINING, time_limit_seconds=0.0, runners_up=0)
    whole = search(_MODEL, _CLUSTER, _TRAINING, runners_up=0)
    assert not hurried.complete
    assert hurried.candidates_solved <= whole.candidates_solved
    assert hurried.estimate.step_seconds >= whole.estimate.step_seconds >= hurried.bound_seconds


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int, float]] = []
    found = search(_MODEL, _CLUSTER, _TRAINING, progress=lambda *state: seen.append(state))
    assert [solved for solved, _, _ in seen] == list(range(1, found.candidates_solved + 1))
    assert seen[-1][2] == pytest.approx(found.estimate.step_seconds)


def test_two_cpu_ranks() -> None:
    group = tiny_cluster(devices=2).groups[0]
    cpu = group.device.model_copy(update={"kind": "cpu", "context_bytes": 5e8})
    cluster = tiny_cluster(devices=2).model_copy(update={"groups": (group.model_copy(update={"device": cpu}),)})
    model, training = tiny_model(layers=4), TrainingSpec(seq_len=256, global_batch=4)
    found = search(model, cluster, training)
    assert found.plan.mesh.ranks == 2
    assert found.plan.offload.optimizer_fraction == 0
    assert explain(found, model, cluster, training)


def test_same_answer_twice(found: SearchResult) -> None:
    assert search(_MODEL, _CLUSTER, _TRAINING).plan == found.plan


def test_a_certificate_confirms_it(found: SearchResult) -> None:
    one = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(schedule="1f1b", pp=4))
    assert certify(one.plan, _MODEL, _CLUSTER, _TRAINING).gap < 0.02
    assert one.estimate.step_seconds >= found.estimate.step_seconds


def test_large_problem_ends_near_the_optimum() -> None:
    """64 GPUs, 80 layers; `shardwright.benchmarks.speed` measures how long such a search takes."""
    model = tiny_model(layers=80, hidden=4096, vocab=128000)
    cluster = tiny_cluster(devices=64, devices_per_node=8, memory_bytes=40e9)
    found = search(model, cluster, TrainingSpec(seq_len=4096, global_batch=512))
    assert found.gap < 0.05


def test_starts_without_solvers_and_torch() -> None:
    """They are slow to import, and no plan needs them."""
    code = (
        "import sys, shardwright.planner; "
        "print([name for name in ('torch', 'transformers', 'pulp', 'highspy', 'networkx', 'scipy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_public_names() -> None:
    public = {name for name in vars(shardwright.planner) if not name.startswith("_")}
    submodules = {name for name in public if hasattr(getattr(shardwright.planner, name), "__path__")}
    modules = {name for name in public if type(getattr(shardwright.planner, name)).__name__ == "module"}
    assert set(shardwright.planner.__all__) <= public
    assert public - modules - submodules - set(shardwright.planner.__all__) <= {"explain", "search"}


def test_126_layers_on_16_times_8_even_stages() -> None:
    """llama-3.1-405b: the first stage is the embedding, the last the head, and each other one layer."""
    model, cluster = load_model("llama-3.1-405b"), load_cluster("h100:1024")
    training = TrainingSpec(seq_len=8192, global_batch=512, stack="megatron-core")
    found = search(model, cluster, training, fixed=Fixed(pp=16, stages_per_rank=8, even_stages=True))
    assert [stage.layer_count for stage in found.plan.stages] == [0, *[1] * 126, 0]
    check_plan(found.plan, model, cluster, training)
    assert found.estimate == estimate_plan(model, cluster, training, found.plan)
    timeline = simulate_plan(model, cluster, training, found.plan)
    assert timeline.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-6)


def test_neither_the_simplest_nor_the_fastest_plan_is_a_runner_up() -> None:
    job = load_model("llama-3.1-8b"), load_cluster("h100-sxm:16"), TrainingSpec(seq_len=8192, global_batch=128)
    found = search(*job, tolerance=0.05)
    assert found.fastest is not None
    others = [runner.plan.mesh for runner in found.runners_up]
    assert len(others) == 3
    assert found.plan.mesh not in others
    assert found.fastest.plan.mesh not in others


def test_a_gap_is_closed_below_the_best_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first entry has too many partitions to rank them all before any plan is known."""
    job = load_model("gpt3-175b"), load_cluster("a100-sxm-80gb:64"), TrainingSpec(seq_len=2048, global_batch=1536)
    fixed = Fixed(schedule="1f1b", tp=4)
    assert search(*job, fixed=fixed, runners_up=0).unproven < 1e-4
    monkeypatch.setattr(BranchAndBound, "_solve_again", lambda *_: None)
    assert search(*job, fixed=fixed, runners_up=0).unproven > 1e-3
