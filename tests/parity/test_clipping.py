"""The gradient norm and clipping by it, over all axes, against one process."""

from collections.abc import Callable

import pytest

from shardwright.costmodel.plan_file import PlanFile
from tests.parity import sabotage
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import TOLERANCE, engine_runs, reference_run, worst_update_error

CLIP_NORM = 0.5
CASES = {
    "every axis": plan_file(
        model_config("qwen3", tied=True), plan((layers(1, zero=3),), (layers(1, zero=2),), pp=2, dp_shard=2, tp=2)
    ),
    "tied stages": plan_file(model_config("gpt2"), plan((layers(1),), (layers(1),), pp=2)),
    "replicas": plan_file(model_config("llama"), plan((layers(zero=2),), dp_replicate=2, dp_shard=2)),
    "offload": plan_file(model_config("gpt2"), plan((layers(zero=3),), dp_shard=2, offload=True)),
}
FAULTS = [
    ("every axis", sabotage.norm_of_this_rank),
    ("tied stages", sabotage.count_tied_copies_twice),
    ("replicas", sabotage.count_replicated_gradients_twice),
    ("offload", sabotage.norm_of_this_rank),
]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_clipped_updates_equal_those_of_one_process(case: PlanFile) -> None:
    own, reference = engine_runs(case, clip_norm=CLIP_NORM), reference_run(case, clip_norm=CLIP_NORM)
    assert min(reference.norms) > CLIP_NORM
    assert worst_update_error(own, reference) <= TOLERANCE
    for run in own:
        assert run.norms == pytest.approx(reference.norms, rel=1e-5)


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_norm(name: str, fault: Callable[[], None]) -> None:
    own, reference = (
        engine_runs(CASES[name], clip_norm=CLIP_NORM, sabotage=fault),
        reference_run(CASES[name], clip_norm=CLIP_NORM),
    )
    assert own[0].norms != pytest.approx(reference.norms, rel=1e-3)
    assert worst_update_error(own, reference) > TOLERANCE


def test_a_large_limit_leaves_the_gradients() -> None:
    case = CASES["replicas"]
    assert worst_update_error(engine_runs(case, clip_norm=1e6), reference_run(case)) <= TOLERANCE
