"""The loss counts every label of a step once, however unevenly ranks, microbatches and parts of a sequence have them."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.plan import Plan
from tests.parity import updates
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import Run, assert_equal_to, engine_run, reference_run, worst_update_error
from tests.parity.worlds import run_again, run_in_turn

LLAMA = model_config("llama")
PLANS: dict[str, Plan] = {
    "dp": plan((layers(zero=2),), dp_shard=2),
    "hsdp": plan((layers(zero=3),), dp_replicate=2, dp_shard=2),
    "pp": plan((layers(1),), (layers(1),), pp=2, microbatches=8),
    "tp": plan((layers(),), tp=2, microbatches=8),
    "cp": plan((layers(),), cp=2, microbatches=8),
    "cp x tp": plan((layers(zero=1),), cp=2, tp=2, context_parallel="ring"),
}
_original = updates.batch


def answers_alone(step: int, plan_file: PlanFile) -> tuple[Tensor, Tensor]:
    """Half of the rows have no label at all, others one, a few, or all of them at one end: as prompts and answers have."""
    inputs, labels = _original(step, plan_file)
    columns = labels.shape[1]
    for row, counted in enumerate((0, 1, columns, 0, 3, 0, 0, columns // 2)):
        labels[row, : columns - counted] = -100
    return inputs, labels


def uneven_run(file: PlanFile) -> Run:
    updates.batch = answers_alone
    return engine_run(file)


def uneven_run_of_means(file: PlanFile) -> Run:
    """With the fault that each rank takes the mean over its own labels."""
    reduce = dist.all_reduce

    def own(tensor: Tensor, *args: object, **options: object) -> None:
        if tensor.dtype == torch.int64:
            tensor *= dist.get_world_size()
        else:
            reduce(tensor, *args, **options)  # type: ignore[arg-type]

    dist.all_reduce = own
    return uneven_run(file)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(updates, "batch", answers_alone)
    return reference_run(plan_file(LLAMA, PLANS["dp"]))


@pytest.mark.parametrize("ranks", [2, 4])
def test_updates_equal_those_of_one_process(ranks: int, reference: Run) -> None:
    files = {name: plan_file(LLAMA, of) for name, of in PLANS.items() if of.mesh.ranks == ranks}
    assert len(files) >= 2
    for name, found in run_in_turn(ranks, uneven_run, {name: (file,) for name, file in files.items()}).items():
        assert_equal_to(reference, found, name)


def test_means_of_each_rank_show(reference: Run) -> None:
    """The negative control."""
    found = run_again(2, uneven_run_of_means, plan_file(LLAMA, PLANS["dp"]))
    assert worst_update_error(found, reference) > 0.1
