"""The same job on another number of devices."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.plan_file import PlanFile
from shardwright.planner.best_plan import TOLERANCE, search
from shardwright.planner.nearby.replanned import replanned
from shardwright.specs.plan import Offload
from shardwright.specs.training import TrainingSpec

MODEL = load_model("llama-3.2-1b")
TRAINING = TrainingSpec(seq_len=1024, global_batch=48)


def job(reference: str, training: TrainingSpec = TRAINING) -> PlanFile:
    cluster = load_cluster(reference)
    found = search(MODEL, cluster, training, tolerance=TOLERANCE)
    return PlanFile(
        model_name=MODEL.name,
        model_config_json=MODEL.config,
        cluster=cluster,
        training=found.training,
        plan=found.plan,
        estimate=found.estimate,
    )


@pytest.mark.parametrize(
    ("given", "devices", "like"), [("h100:8", 4, "h100:4"), ("h100:16", 4, "h100:4"), ("h100:16", 8, "h100:8")]
)
def test_fewer_devices_get_the_plan_of_a_search_there(given: str, devices: int, like: str) -> None:
    found, there = replanned(job(given), devices), job(like)
    assert found.plan == there.plan
    assert found.cluster.groups == there.cluster.groups
    assert found.estimate == there.estimate
    assert found.cluster.name == f"{devices} devices as in {given}"
    assert found.training.global_batch == 48


def test_as_many_are_the_cluster_itself() -> None:
    assert replanned(job("h100:8"), 8) == job("h100:8")


def test_where_they_divide_badly_some_stay_idle() -> None:
    """A batch of 4 sequences over 7 devices: a pipeline of 16 layers on 7 ranks alone."""
    given = job("h100:8", TRAINING.model_copy(update={"global_batch": 4}))
    assert replanned(given, 7).plan.mesh.ranks < 7
    assert replanned(given, 7, exactly=True).plan.mesh.ranks == 7


def test_of_two_machines_one_lost_device_leaves_one() -> None:
    assert replanned(job("h100:16"), 15).cluster.devices == 8
    with pytest.raises(SpecError, match="15 devices do not fill nodes of 8: run on 8 or 16, or plan with"):
        replanned(job("h100:16"), 15, exactly=True)


def test_more_devices_of_a_machine() -> None:
    found = replanned(job("h100:2"), 4)
    assert found.plan.mesh.ranks == 4
    assert found.cluster.node.devices_per_node == 4
    assert found.estimate is not None
    assert found.estimate.step_seconds < job("h100:2").estimated().step_seconds


def test_what_leaves_the_device_may_leave_it_again() -> None:
    """State on drives, too, of a model that one device and its host do not hold otherwise."""
    small = load_cluster("rtx-4090:2")
    model = load_model("llama-3.1-8b")
    training = TrainingSpec(seq_len=512, global_batch=4)
    given = job("rtx-4090:2").model_copy(
        update={"model_name": model.name, "model_config_json": model.config, "training": training, "cluster": small}
    )
    with pytest.raises(InfeasibleError):
        replanned(given, 1)
    offload = Offload(optimizer_fraction=1, parameter_fraction=0.5)
    streamed = given.model_copy(update={"plan": given.plan.model_copy(update={"offload": offload})})
    assert replanned(streamed, 1).plan.offload.nvme_fraction > 0


def test_a_mixed_cluster_is_refused() -> None:
    given = job("h100:8")
    with pytest.raises(SpecError, match="mixed cluster"):
        replanned(given.model_copy(update={"cluster": load_cluster("h100:8+a100:8")}), 8)
