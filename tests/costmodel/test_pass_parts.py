"""The layers inside a pass add up to the pass."""

import numpy as np
import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import costs_of_groups
from shardwright.costmodel.pass_parts import PassPart, pass_parts
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.model import ModelSpec
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.test_mixed import MIXED
from tests.costmodel.test_mixed import plan as plan_across
from tests.costmodel.test_replica_groups import MIXED as GROUPS
from tests.costmodel.test_replica_groups import TRAINING as JOB
from tests.costmodel.test_replica_groups import plan as plan_in_groups

LLAMA, MIXTRAL, DEEPSEEK = (load_model(name) for name in ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"))
TRAINING = TrainingSpec(seq_len=4096, global_batch=32)
H100 = load_cluster("h100-sxm:16")
MIXED_LAYERS = (
    LayerRun(count=3, recompute="full", zero_stage=1),
    LayerRun(count=2, recompute="selective", zero_stage=1),
    LayerRun(count=11, zero_stage=1),
)


def staged(*stages: tuple[LayerRun, ...], **changes: object) -> Plan:
    values = {"mesh": Mesh(pp=len(stages), dp_shard=4, tp=16 // 4 // len(stages)), "micro_batch": 1, "microbatches": 8}
    return Plan.parse({**values, "stages": [Stage(layers=runs) for runs in stages], **changes}, source="test")


def total(part: PassPart, seconds: str) -> float:
    found = getattr(part, seconds)
    return part.count * (found if isinstance(found, float) else sum(found.values()))


JOBS = {
    "several policies": (LLAMA, H100, TRAINING, staged(MIXED_LAYERS, (LayerRun(count=16, zero_stage=1),))),
    "ZeRO stages": (LLAMA, H100, TRAINING, staged((LayerRun(count=8, zero_stage=3), LayerRun(count=8, zero_stage=2)), (LayerRun(count=16, zero_stage=3),))),
    "experts": (MIXTRAL, H100, TRAINING, staged(*[(LayerRun(count=16, zero_stage=1),)] * 2, mesh=Mesh(pp=2, dp_shard=8, ep=8), microbatches=4)),
    "dense and experts": (DEEPSEEK, H100, TRAINING, staged((LayerRun(count=14, zero_stage=1),), (LayerRun(count=13, zero_stage=1),))),
    "across groups": (LLAMA, MIXED, TRAINING, plan_across(20, 12)),
    "replicas in groups": (LLAMA, GROUPS, JOB, plan_in_groups((2, 1, 3), (2, 1, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_parts_add_up_to_the_costs_of_each_stage(name: str) -> None:
    job: tuple[ModelSpec, ClusterSpec, TrainingSpec, Plan] = JOBS[name]
    for stages, costs in zip(pass_parts(*job), costs_of_groups(*job), strict=True):
        wanted = costs.stage_costs()
        for seconds, values in (
            ("forward", wanted.forward),
            ("backward", wanted.backward),
            ("weight_gradient_seconds", wanted.weight_gradient),
        ):
            found = np.array([sum(total(part, seconds) for part in parts) for parts in stages])
            assert found == pytest.approx(values, rel=1e-12), seconds


def test_the_layers_are_numbered_through_the_model() -> None:
    (stages,) = pass_parts(*JOBS["several policies"])
    shown = [[(part.what, part.first, part.count, part.recompute) for part in parts] for parts in stages]
    assert shown == [
        [
            ("embedding", 0, 1.0, "none"),
            ("layer", 0, 3, "full"),
            ("layer", 3, 2, "selective"),
            ("layer", 5, 11, "none"),
        ],
        [("layer", 16, 16, "none"), ("head", 0, 1.0, "none")],
    ]
    assert "recompute" in stages[0][1].backward
    assert "recompute" not in stages[0][3].backward


def test_kinds_of_layers_are_parts_of_their_own() -> None:
    (stages,) = pass_parts(*JOBS["dense and experts"])
    assert [part.count for part in stages[0][1:]] == [1, 13]
    assert stages[0][1].forward != stages[0][2].forward
