"""The same plan in other surroundings: more of anything is never slower, and nothing else changes."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.planner.best_plan import search
from shardwright.planner.nearby.sensitivity import Sensitivity, sensitivities
from shardwright.planner.space import Fixed
from shardwright.specs.training import TrainingSpec
from tests.costmodel.test_mixed import MIXED, plan

LLAMA, H100 = load_model("llama-3.1-8b"), load_cluster("h100-sxm:16")
TRAINING = TrainingSpec(seq_len=8192, global_batch=32)
FIXED = Fixed(tp=4, pp=2)


@pytest.fixture(scope="module")
def found() -> tuple[float, dict[str, Sensitivity]]:
    """The plan's own step, and its surroundings by name."""
    best = search(LLAMA, H100, TRAINING, fixed=FIXED, runners_up=0)
    return best.estimate.step_seconds, {one.what: one for one in sensitivities(LLAMA, H100, TRAINING, best.plan)}


def seconds(one: Sensitivity) -> float:
    assert one.estimate is not None
    return one.estimate.step_seconds / one.work


def test_every_change_is_there(found: tuple[float, dict[str, Sensitivity]]) -> None:
    assert list(found[1]) == [
        *("-20% memory of a device", "-10% memory of a device", "+25% memory of a device"),
        *(
            "half the nvswitch rate",
            "half the rate between nodes",
            "twice the nvswitch rate",
            "twice the rate between nodes",
        ),
        *("half the batch", "twice the batch"),
    ]


def test_more_is_never_slower(found: tuple[float, dict[str, Sensitivity]]) -> None:
    mine, others = found
    for more in (
        "+25% memory of a device",
        "twice the nvswitch rate",
        "twice the rate between nodes",
        "twice the batch",
    ):
        assert seconds(others[more]) <= mine * (1 + 1e-9)
    for less in ("-20% memory of a device", "half the nvswitch rate", "half the rate between nodes", "half the batch"):
        assert seconds(others[less]) >= mine * (1 - 1e-9)


def test_tensor_parallelism_in_a_node_feels_the_link_inside_it(found: tuple[float, dict[str, Sensitivity]]) -> None:
    """Control: the changes do reach the estimate."""
    mine, others = found
    assert seconds(others["half the nvswitch rate"]) > 1.05 * mine
    assert others["twice the batch"].work == 2


def test_what_does_not_fit_says_so() -> None:
    large = TrainingSpec(seq_len=8192, global_batch=16)
    best = search(
        LLAMA, load_cluster("h100-sxm:8"), large, fixed=Fixed(pp=1, tp=1, zero_stage=1, recompute="full"), runners_up=0
    )
    cluster = load_cluster("h100-sxm:8")
    device = cluster.groups[0].device
    tight = 1.02 * best.estimate.peak_memory_bytes / device.memory_bytes
    small = device.model_copy(update={"memory_bytes": tight * device.memory_bytes, "memory_reserve": 0.0})
    somewhere = cluster.model_copy(update={"groups": (cluster.groups[0].model_copy(update={"device": small}),)})
    others = {one.what: one for one in sensitivities(LLAMA, somewhere, large, best.plan)}
    assert others["-20% memory of a device"].estimate is None
    assert others["-20% memory of a device"].reason == "does not fit with this mesh and schedule"


def test_a_mixed_cluster_has_none() -> None:
    assert sensitivities(LLAMA, MIXED, TRAINING, plan(20, 12)) == ()
