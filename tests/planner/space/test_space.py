"""The second pass over the best entries: which entries it takes, and what it finds."""

import json
from pathlib import Path

import numpy as np
import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.plan_file import PlanFile, read_plan_file, write_plan_file
from shardwright.planner.best_plan import search
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.space import Space, in_other_order, may_change_order
from shardwright.planner.why.alternatives import alternatives
from shardwright.specs.mesh import ORDERS, PIPELINE_INSIDE_DATA, PIPELINE_OUTERMOST
from shardwright.specs.training import TrainingSpec

_MODEL, _CLUSTER = load_model("llama-2-13b"), load_cluster("a100-sxm-80gb:32")
_TRAINING = TrainingSpec(seq_len=4096, global_batch=256, stack="megatron-core-0.15")


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return search(_MODEL, _CLUSTER, _TRAINING)


def _tried(cluster: str, training: TrainingSpec, fixed: Fixed | None = None) -> Space | None:
    space = enumerate_space(_MODEL, load_cluster(cluster), training, fixed)
    changed = np.flatnonzero(may_change_order(space, load_cluster(cluster), training))
    return in_other_order(space, changed) if len(changed) else None


def test_only_entries_that_it_may_change() -> None:
    tried = _tried("a100-sxm-80gb:32", _TRAINING)
    assert tried is not None
    assert len(tried) > 0
    assert (tried.column("pp") > 1).all()
    assert (tried.column("dp_shard") * tried.column("dp_replicate") > 1).all()
    assert (tried.column("tp") * tried.column("cp") < 8).all()
    assert (tried.column("cp") == 1).all()  # Megatron-Core's experts would not fill a block of cp * tp ranks
    assert set(tried.column("order").tolist()) == {ORDERS.index(PIPELINE_INSIDE_DATA)}


def test_nothing_where_it_changes_nothing() -> None:
    assert _tried("a100-sxm-80gb:8", _TRAINING) is None
    assert _tried("a100-sxm-80gb:32", _TRAINING, Fixed(order=PIPELINE_OUTERMOST)) is None
    assert _tried("a100-sxm-80gb:32", _TRAINING.model_copy(update={"stack": "torchtitan"})) is None


def test_the_search_takes_it_where_it_is_faster(found: SearchResult) -> None:
    usual = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed(order=PIPELINE_OUTERMOST))
    assert found.plan.mesh.order == PIPELINE_INSIDE_DATA
    assert found.bound_seconds <= found.estimate.step_seconds * (1 + 1e-9)
    assert found.estimate.step_seconds < usual.estimate.step_seconds
    again = search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed.of(found.plan))
    assert again.plan == found.plan
    assert again.estimate.step_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)


def test_the_usual_order_is_simpler() -> None:
    assert search(_MODEL, _CLUSTER, _TRAINING, tolerance=0.02).plan.mesh.order == PIPELINE_OUTERMOST


def test_the_usual_order_is_a_neighbour(found: SearchResult) -> None:
    others = alternatives(found.plan, _MODEL, _CLUSTER, _TRAINING, op_times(_CLUSTER, _TRAINING))
    (order,) = (other for other in others if other.change.startswith("order"))
    assert order.change == "order tp-cp-dp-pp instead of tp-cp-pp-dp"
    assert order.estimate is not None
    assert order.estimate.step_seconds > found.estimate.step_seconds


def test_a_plan_file_holds_the_order_and_earlier_ones_have_the_usual(found: SearchResult, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    written = PlanFile(
        model_name=_MODEL.name,
        model_config_json=_MODEL.config,
        cluster=_CLUSTER,
        training=_TRAINING,
        plan=found.plan,
    )
    write_plan_file(path, written)
    assert read_plan_file(path).plan == found.plan
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["plan"]["mesh"]["order"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert read_plan_file(path).plan.mesh.order == PIPELINE_OUTERMOST
    assert str(found.plan.mesh).endswith(" in order tp-cp-pp-dp")
