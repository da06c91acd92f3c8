"""A plan in a user's own loop: updates are those of plain torch in one process, and the example of the documentation runs."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile, write_plan_file
from shardwright.executor.own_loop.parallel_model import parallelize
from shardwright.executor.passes.loss import LossFunction
from tests.executor.runs import VOCABULARY, tiny
from tests.parity.cases import GLOBAL_BATCH, SEQ_LEN, layers, plan
from tests.parity.worlds import RankFailedError, run_world

PLANS = {
    "fsdp": plan((layers(zero=3),), dp_shard=2),
    "tp": plan((layers(),), tp=2),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "tp x fsdp": plan((layers(zero=2),), tp=2, dp_shard=2),
}
EXAMPLE = Path(__file__).parents[3] / "docs" / "own_loop.md"


def model(plan_file: PlanFile, seed: int = 5) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = dict(plan_file.model_config_json)
    factory: Any = AutoModelForCausalLM
    found: PreTrainedModel = factory.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    return found


def in_chunks(plan_file: PlanFile) -> PlanFile:
    return plan_file.model_copy(update={"training": plan_file.training.model_copy(update={"loss_chunks": 2})})


def batches() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(VOCABULARY, (GLOBAL_BATCH, SEQ_LEN + 1), generator=draw) for _ in range(2)]


def reference(plan_file: PlanFile, loss_of: LossFunction | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Two steps of SGD by torch and transformers alone: losses and parameters."""
    alone, losses = model(plan_file), []
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.5)
    for batch in batches():
        logits = alone(input_ids=batch[:, :-1], use_cache=False).logits
        labels = batch[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if loss_of is not None:
            loss = loss_of(logits, labels) / (labels != -100).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: parameter.detach() for name, parameter in alone.named_parameters()}


def _train(
    plan_file: PlanFile, seed: int, folder: Path, loss: LossFunction | None = None
) -> tuple[list[float], dict[str, torch.Tensor], int]:
    engine = parallelize(model(plan_file, seed), plan_file, loss=loss)
    optimizer = engine.optimizer(learning_rate=0.5, clip_norm=None, weight_decay=0.0)
    losses = []
    for number, batch in enumerate(batches(), 1):
        own = batch.chunk(engine.dp_size)[engine.dp_rank]
        losses.append(float(engine.forward_backward((own[:, :-1], own[:, 1:]))))
        assert optimizer.step() > 0
        engine.save(folder, number)
    own_parameters = {
        name: parameter.full_tensor().detach() if isinstance(parameter, DTensor) else parameter.detach()
        for part in engine.engine.model_parts
        for name, parameter in part.named_parameters()
    }
    everyone: list[dict[str, torch.Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own_parameters)
    step = engine.load(folder / "step-000001")
    return losses, {name: value for part in everyone for name, value in part.items()}, step


def worst(found: dict[str, torch.Tensor], plan_file: PlanFile, loss: LossFunction | None = None) -> float:
    """The largest difference of an update from the reference's, relative to the norm of that update."""
    start, (_, expected) = dict(model(plan_file).named_parameters()), reference(plan_file, loss)
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).norm() / (expected[name] - start[name]).norm()) for name in expected
    )


@pytest.mark.parametrize("name", PLANS)
def test_updates_are_those_of_plain_torch(name: str, tmp_path: Path) -> None:
    plan_file = tiny(PLANS[name], optimizer="sgd")
    losses, found, step = run_world(plan_file.plan.mesh.ranks, _train, plan_file, 5, tmp_path)[0]
    assert losses == pytest.approx(reference(plan_file)[0], abs=1e-5)
    assert worst(found, plan_file) < 1e-4
    assert step == 1


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The function of the documentation."""
    names: dict[str, Any] = {}
    source = EXAMPLE.read_text().split("```python\n")[2].split("```")[0].partition("\n\nengine =")[0]
    exec(compile(source, "loss.py", "exec"), names)  # noqa: S102  # our own documentation
    found: torch.Tensor = names["smoothed"](logits, labels)
    return found


def not_smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


OWN_LOSS = {
    "tp x fsdp": tiny(PLANS["tp x fsdp"], optimizer="sgd"),
    "pp, in chunks": in_chunks(tiny(PLANS["pp"], optimizer="sgd")),
    "cp x tp": tiny(plan((layers(zero=3),), cp=2, tp=2), optimizer="sgd"),
}


@pytest.mark.parametrize("name", OWN_LOSS)
def test_a_loss_of_ones_own(name: str, tmp_path: Path) -> None:
    plan_file = OWN_LOSS[name]
    losses, found, _ = run_world(plan_file.plan.mesh.ranks, _train, plan_file, 5, tmp_path, smoothed)[0]
    assert losses == pytest.approx(reference(plan_file, smoothed)[0], abs=1e-5)
    assert worst(found, plan_file, smoothed) < 1e-4


def test_another_loss_shows(tmp_path: Path) -> None:
    """The negative control: cross-entropy without what the loss adds to it."""
    plan_file = OWN_LOSS["tp x fsdp"]
    _, found, _ = run_world(4, _train, plan_file, 5, tmp_path, not_smoothed)[0]
    assert worst(found, plan_file, smoothed) > 0.01


def of_each_token(logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    return logits.logsumexp(-1)


def test_other_weights_show(tmp_path: Path) -> None:
    """The negative control: weights drawn anew in place of the model's."""
    plan_file = tiny(PLANS["fsdp"], optimizer="sgd")
    losses, found, _ = run_world(2, _train, plan_file, 6, tmp_path)[0]
    assert losses != pytest.approx(reference(plan_file)[0], abs=1e-3)
    assert worst(found, plan_file) > 0.1


class TestRefused:
    def test_without_a_process_group(self) -> None:
        plan_file = tiny(PLANS["fsdp"])
        with pytest.raises(SpecError, match="there is no process group; call"):
            parallelize(model(plan_file), plan_file)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"intermediate_size": 64}, r"SpecError: parameter 'model\.layers\.0\.mlp\.down_proj\.weight' has shape"),
            (
                {"rms_norm_eps": 1e-3},
                r"SpecError: the model's config has rms_norm_eps 0\.001 and the plan's 1e-06; plan for",
            ),
        ],
    )
    def test_a_model_that_is_not_the_plans(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(RankFailedError, match=says):
            run_world(1, _other, tiny(plan((layers(),))), tiny(plan((layers(),)), **changes))

    def test_a_loss_that_is_not_summed(self, tmp_path: Path) -> None:
        with pytest.raises(
            RankFailedError, match=r"SpecError: the loss returns a tensor of \(4, 16\); return its sum over"
        ):
            run_world(1, _train, tiny(plan((layers(),)), optimizer="sgd"), 5, tmp_path, of_each_token)

    def test_a_checkpoint_before_there_is_an_optimizer(self) -> None:
        with pytest.raises(RankFailedError, match=r"SpecError: a checkpoint holds the optimizer's state, too; call"):
            run_world(1, _saved_early, tiny(plan((layers(),))))


def _other(plan_file: PlanFile, other: PlanFile) -> None:
    parallelize(model(other), plan_file)


def _saved_early(plan_file: PlanFile) -> None:
    parallelize(model(plan_file), plan_file).save("checkpoints", 1)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """As it stands there, on two ranks. It learns, and saves."""
    code = EXAMPLE.read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    write_plan_file(tmp_path / "plan.json", tiny(PLANS["fsdp"]))
    said = run_world(2, _run_example, code, tmp_path)[0].splitlines()
    losses = [float(line.split()[3]) for line in said]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5
    assert (tmp_path / "checkpoints" / "step-000020").is_dir()


def _run_example(code: str, folder: Path) -> str:
    os.chdir(folder)
    said = io.StringIO()
    with (
        mock.patch.object(dist, "init_process_group"),  # the group of this test's world is up
        mock.patch.object(dist, "destroy_process_group"),
        contextlib.redirect_stdout(said),
    ):
        exec(compile(code, "train.py", "exec"), {})  # noqa: S102  # our own documentation
    return said.getvalue()
