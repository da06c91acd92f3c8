"""The last layers alone: their updates are those of one process in which the rest is frozen, and the rest stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import frozen
from shardwright.executor.model import StageModule, hugging_face_state
from shardwright.executor.parallel import build_engine, stage_builder
from shardwright.executor.run.checks import check_plan
from tests.parity import updates
from tests.parity.adapters import frozen_tensors
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import SEED, TOLERANCE, Run, assert_equal_to, batch, reference_model, worst_update_error
from tests.parity.worlds import run_again, run_in_turn

CONFIG = FAMILIES["qwen3"] | {"num_hidden_layers": 4}
PLANS = {
    "zero 1": plan((layers(4, zero=1),), dp_shard=2),
    "zero 3": plan((layers(4, zero=3, recompute="full"),), dp_shard=2),
    "tp": plan((layers(4),), tp=2),
    "a frozen stage": plan((layers(2),), (layers(2),), pp=2),
    "a stage frozen in part": plan((layers(1),), (layers(3),), pp=2),
    "gpipe": plan((layers(2),), (layers(2),), pp=2, schedule="gpipe"),
    "zb-h1": plan((layers(2),), (layers(2),), pp=2, schedule="zb-h1"),
    "interleaved": plan(*(((layers(1),),) * 4), pp=2, schedule="interleaved-1f1b"),
}


def reference_run(plan_file: PlanFile, trained: tuple[str, ...]) -> Run:
    """Train what `trained` begins the name of, with transformers and torch alone."""
    model = reference_model(plan_file)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.detach().clone() for name, value in own.items()}
    optimizer = torch.optim.SGD(own.values(), lr=updates.LEARNING_RATE)
    losses, norms = [], []
    for step in range(updates.STEPS):
        inputs, labels = batch(step, plan_file)
        loss = torch.nn.functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), labels.flatten())
        torch.autograd.backward(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_(own.values(), torch.inf)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return Run(before, {name: value.detach() for name, value in own.items()}, tuple(losses), tuple(norms))


def run(plan_file: PlanFile) -> tuple[Run, dict[str, Tensor]]:
    """Train as one rank; return the frozen weights after it too."""
    engine = build_engine(plan_file, device=torch.device("cpu"), seed=SEED)
    trained = updates.train(engine, plan_file)
    return trained, hugging_face_state(frozen_tensors(engine))


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        ("layers:2", ("model.layers.2.", "model.layers.3.")),
        ("layers:1+head", ("model.layers.3.", "model.norm.", "lm_head.")),
        ("layers:0+head", ("model.norm.", "lm_head.")),
    ],
)
def test_updates_are_those_of_one_process(trainable: str, trained: tuple[str, ...]) -> None:
    files = {name: plan_file(CONFIG, divided, trainable=trainable) for name, divided in PLANS.items()}
    chunked = plan_file(CONFIG, PLANS["zero 1"], trainable=trainable, loss_chunks=2)
    files["loss in chunks"] = chunked
    for file in files.values():
        check_plan(file)
    reference = reference_run(files["tp"], trained)
    whole = dict(reference_model(files["tp"]).named_parameters())
    for name, found in run_in_turn(2, run, {name: (file,) for name, file in files.items()}).items():
        assert_equal_to(reference, [own for own, _ in found], name)
        for _, held in found:
            assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items()), name


def freeze_one_layer_less() -> None:
    """A layer below the trained ones trains too."""
    original = frozen.trains_path

    def lower(path: str, trainable: object, **options: object) -> bool:
        return original(path, trainable, **{**options, "layer_count": options["layer_count"] - 1})  # type: ignore[arg-type, operator]

    stage_builder.trains_path = lower  # type: ignore[attr-defined]


def faulty_run(plan_file: PlanFile) -> Run:
    freeze_one_layer_less()
    return run(plan_file)[0]


def test_a_layer_too_many_shows(tmp_path: Path) -> None:
    given = plan_file(CONFIG, PLANS["zero 1"], trainable="layers:2")
    names = set().union(*(own.after for own in run_again(2, faulty_run, given)))
    assert "model.layers.1.self_attn.q_proj.weight" in names


def test_a_part_of_the_gradient_shows() -> None:
    """Stages that get zeros though they train: their updates are lost."""
    given = plan_file(CONFIG, PLANS["a stage frozen in part"], trainable="layers:4")
    reference = reference_run(given, ("model.layers.",))
    runs = run_again(2, cut_off_run, given)
    assert worst_update_error(runs, reference) > 20 * TOLERANCE


def cut_off_run(plan_file: PlanFile) -> Run:
    """No stage looks at what trains below it."""
    StageModule.trains_below = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]
    return run(plan_file)[0]
