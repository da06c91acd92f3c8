"""The order in which a mesh lies over the ranks: its groups are those of `specs.Mesh`, and it trains as one process does."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.parallel import build_engine
from shardwright.specs.mesh import PIPELINE_INSIDE_DATA, Mesh, MeshOrder
from tests.parity import sabotage
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import TOLERANCE, assert_equal_to, engine_run, reference_run, worst_update_error
from tests.parity.worlds import run_again, run_in_turn

LLAMA, TIED = model_config("llama"), model_config("qwen3", tied=True)


def inside_data(file: PlanFile) -> PlanFile:
    """The same plan with its pipeline inside data parallelism."""
    mesh = file.plan.mesh.model_copy(update={"order": PIPELINE_INSIDE_DATA})
    return file.model_copy(update={"plan": file.plan.model_copy(update={"mesh": mesh})})


CASES = {
    "pp and dp, tied embedding": inside_data(
        plan_file(TIED, plan((layers(1, zero=1),), (layers(1, zero=2),), pp=2, dp_shard=2))
    ),
    "pp and replicas, zb-h1": inside_data(
        plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, dp_replicate=2, schedule="zb-h1"))
    ),
    "pp, dp and ep": inside_data(
        plan_file(FAMILIES["qwen3_moe"], plan((layers(1, zero=2),), (layers(1, zero=3),), pp=2, dp_shard=2, ep=2))
    ),
    "pp, dp and tp, zero 3": inside_data(
        plan_file(TIED, plan((layers(1, zero=3),), (layers(1, zero=3),), pp=2, dp_shard=2, tp=2))
    ),
    "pp, dp and cp by ring": inside_data(
        plan_file(
            LLAMA, plan((layers(1, zero=2),), (layers(1, zero=2),), pp=2, dp_shard=2, cp=2, context_parallel="ring")
        )
    ),
}
FAULTS = [
    ("pp and dp, tied embedding", sabotage.drop_tied_sum),
    ("pp, dp and ep", sabotage.average_experts_as_dense_layers),
    ("pp, dp and tp, zero 3", sabotage.lose_gradient_between_stages),
    ("pp, dp and cp by ring", sabotage.forget_data_parallel_average),
]


def _groups(file: PlanFile) -> dict[str, list[int]]:
    engine = build_engine(file, device=torch.device("cpu"), seed=0)
    return {axis: dist.get_process_group_ranks(engine.mesh.get_group(axis)) for axis in ("pp", "dp_shard", "tp")}


def test_groups_hold_the_ranks_of_the_order() -> None:
    """Of 8 ranks: tp neighbours, then pp, then dp. In the usual order pp is outermost."""
    inside = CASES["pp, dp and tp, zero 3"]
    outside = inside.model_copy(update={"plan": inside.plan.model_copy(update={"mesh": Mesh(pp=2, dp_shard=2, tp=2)})})
    found = run_in_turn(8, _groups, {"inside": (inside,), "outside": (outside,)})
    assert found["inside"][0] == {"pp": [0, 2], "dp_shard": [0, 4], "tp": [0, 1]}
    assert found["inside"][7] == {"pp": [5, 7], "dp_shard": [3, 7], "tp": [6, 7]}
    assert found["outside"][0] == {"pp": [0, 4], "dp_shard": [0, 2], "tp": [0, 1]}


@pytest.mark.parametrize("ranks", [4, 8])
def test_updates_equal_those_of_one_process(ranks: int) -> None:
    files = {name: file for name, file in CASES.items() if file.plan.mesh.ranks == ranks}
    runs = run_in_turn(ranks, engine_run, {name: (file,) for name, file in files.items()})
    for name, own in runs.items():
        assert_equal_to(reference_run(files[name]), own, name)


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    own = run_again(CASES[name].plan.mesh.ranks, engine_run, CASES[name], None, fault)
    assert worst_update_error(own, reference_run(CASES[name])) > TOLERANCE


@pytest.mark.parametrize("order", ["tp-cp-dp-pp", "tp-cp-pp-dp"])
def test_every_rank_has_one_place(order: MeshOrder) -> None:
    numbered = Mesh(pp=2, dp_replicate=2, dp_shard=3, cp=2, tp=2, order=order).numbered()
    assert numbered.shape == (2, 2, 3, 2, 2)
    assert sorted(numbered.flatten()) == list(range(48))
    assert numbered[0, 0, 0].flatten().tolist() == [0, 1, 2, 3]  # cp and tp are innermost in both
