"""The simplest rival has fewer axes than the plan, keeps what the user fixed, and says why there is none."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.comparison.simpler import axis_count, simplest_rival
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec

MODEL, CLUSTER = load_model("llama-3.1-8b"), load_cluster("h100-sxm:16")
TRAINING = TrainingSpec(seq_len=2048, global_batch=64)


def _plan(fixed: Fixed, training: TrainingSpec = TRAINING) -> Plan:
    return search(MODEL, CLUSTER, training, fixed=fixed, runners_up=0).plan


def test_axes_of_degree_one_do_not_count() -> None:
    assert axis_count(Mesh()) == 0
    assert axis_count(Mesh(pp=2, dp_shard=4, tp=1)) == 2


@pytest.mark.parametrize(("pp", "tp"), [(2, 2), (2, 1), (1, 2)])
def test_sharded_data_parallelism_alone_is_tried_first(pp: int, tp: int) -> None:
    rival = simplest_rival(_plan(Fixed(pp=pp, tp=tp)), MODEL, CLUSTER, TRAINING)
    assert rival is not None
    assert rival.plan is not None
    assert str(rival.plan.mesh) == "dp_shard16"
    assert rival.estimate == search(MODEL, CLUSTER, TRAINING, fixed=Fixed(pp=1, tp=1, cp=1, dp_replicate=1)).estimate


def test_where_it_does_not_divide_tensor_and_data_parallelism_is() -> None:
    few = TRAINING.model_copy(update={"global_batch": 8})
    rival = simplest_rival(_plan(Fixed(pp=2, tp=4), few), MODEL, CLUSTER, few)
    assert rival is not None
    assert rival.plan is not None
    mesh = rival.plan.mesh
    assert (mesh.pp, mesh.dp_replicate) == (1, 1)
    assert mesh.tp > 1


def test_what_is_fixed_stays() -> None:
    fixed = Fixed(pp=2, tp=2, zero_stage=1, recompute="full")
    rival = simplest_rival(_plan(fixed), MODEL, CLUSTER, TRAINING, fixed=Fixed(zero_stage=1, recompute="full"))
    assert rival is not None
    assert rival.plan is not None
    assert rival.plan.zero_stage == 1
    assert {run.recompute for stage in rival.plan.stages for run in stage.layers} == {"full"}
    none = simplest_rival(_plan(fixed), MODEL, CLUSTER, TRAINING, fixed=fixed)
    assert none is not None
    assert (none.plan, none.reason) == (None, "the given options leave none")


def test_a_plan_of_one_axis_has_none() -> None:
    assert simplest_rival(_plan(Fixed(pp=1, tp=1, cp=1, dp_replicate=1)), MODEL, CLUSTER, TRAINING) is None


def test_a_rival_that_does_not_fit_is_the_reason() -> None:
    model, cluster = load_model("llama-3.1-405b"), load_cluster("h100-sxm:128")
    training = TrainingSpec(seq_len=8192, global_batch=512)
    plan = search(model, cluster, training, fixed=Fixed(pp=1), runners_up=0).plan
    rival = simplest_rival(plan, model, cluster, training)
    assert rival is not None
    assert (rival.plan, rival.reason) == (None, "data parallelism alone does not fit the memory")
