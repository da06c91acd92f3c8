"""The sustained share of a profile's matmul rates."""

import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.measured import ProfileTimes
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.profile import Figure, Profile
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import round_cluster, small_model
from tests.costmodel.op_times.made_up_profile import made_up_profile


def sustained(share: float | None) -> Profile:
    figures = {"host_seconds_per_kernel": Figure(value=1e-15, unit="s", meaning="launch")}
    if share is not None:
        figures["sustained_matmul_share"] = Figure(value=share, unit="share", meaning="sustained")
    return made_up_profile().model_copy(update={"figures": figures})


def times(share: float | None, compute: str = "bf16") -> ProfileTimes:
    precision = Precision.parse({"compute": compute}, source="test")
    group = round_cluster().groups[0].model_copy(update={"profile": sustained(share)})
    cluster = round_cluster().model_copy(update={"groups": (group,)})
    found = op_times(cluster, TrainingSpec(seq_len=2048, global_batch=8, precision=precision))
    assert isinstance(found, ProfileTimes)
    return found


@pytest.mark.parametrize("groups", [1, 8])
def test_measured_matmuls_run_at_the_sustained_share(groups: int) -> None:
    size = (2048.0, 512.0, 2048.0)
    paused, loaded = (float(times(share).matmul_seconds(*size, groups=groups)) for share in (None, 0.8))
    assert loaded == pytest.approx(paused / 0.8)


def test_a_device_that_only_warms_up_gains_nothing() -> None:
    assert times(1.1).matmul_seconds(512, 512, 512) == times(None).matmul_seconds(512, 512, 512)
    assert times(0.0).matmul_seconds(512, 512, 512) == times(None).matmul_seconds(512, 512, 512)


def test_other_work_and_the_catalogs_matmuls_keep_their_times() -> None:
    assert times(0.8, "fp32").matmul_seconds(512, 512, 512) == times(None, "fp32").matmul_seconds(512, 512, 512)
    assert times(0.8).memory_bound_seconds(1e9) == times(None).memory_bound_seconds(1e9)
    how = {"head_size": 128, "seq_len": 2048, "backward": False}
    assert times(0.8).attention_seconds(1e12, **how) == times(None).attention_seconds(1e12, **how)  # type: ignore[arg-type]


def test_a_step_is_longer_by_its_matmuls_over_the_share() -> None:
    """At half of the rate each matmul takes once more its time: so do a step's at a third, twice."""
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(LayerRun(count=2),)),))
    one, training = round_cluster(nodes=1, devices_per_node=1), TrainingSpec(seq_len=1024, global_batch=1)

    def compute_seconds(share: float | None) -> float:
        group = one.groups[0].model_copy(update={"profile": sustained(share)})
        cluster = one.model_copy(update={"groups": (group,)})
        return estimate_plan(small_model(layers=2), cluster, training, plan).step.compute

    half, third = (compute_seconds(share) - compute_seconds(None) for share in (1 / 2, 1 / 3))
    assert half > 0
    assert third == pytest.approx(2 * half)
