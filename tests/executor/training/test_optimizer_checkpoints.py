"""Checkpoints of optimizers whose state is not cut as the parameters are: another plan takes them up, and the state is needed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.training.manifest import read_manifest
from shardwright.specs.training import TrainingSpec
from tests.executor.runs import losses, options, text_file, tiny
from tests.executor.training.test_checkpoint import restate, rewrite
from tests.parity.cases import layers, plan

WRITES = plan((layers(zero=3),), tp=2, dp_shard=2)
READS = plan((layers(1),), (layers(1),), pp=2)
METHODS = {"lion": 1e-5, "galore:rank=4,period=2": 1e-4, "soap:period=2": 1e-3}


def with_optimizer(given: PlanFile, optimizer: str) -> PlanFile:
    fields = given.training.model_dump(mode="json", exclude={"optimizer_settings"}) | {"optimizer": optimizer}
    return given.model_copy(update={"training": TrainingSpec.parse(fields, source="test")})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("optimizer", METHODS)
def test_another_plan_takes_the_checkpoint_up(optimizer: str, tmp_path: Path, data: Path) -> None:
    pytest.importorskip("pytorch_optimizer")
    given: dict[str, Any] = {"data": data, "steps": 4, "checkpoint_every": 2, "learning_rate": 1e-2}
    expected = losses(with_optimizer(tiny(WRITES), optimizer), options(tmp_path / "there", **given))
    checkpoint = tmp_path / "there" / "checkpoints" / "step-000002"
    other = with_optimizer(tiny(READS), optimizer)
    found = losses(other, options(tmp_path / "here", **given | {"resume_from": checkpoint, "checkpoint_every": None}))
    assert found == pytest.approx(expected[2:], abs=METHODS[optimizer])
    if optimizer == "lion":  # cut as the parameters are
        return
    blank = shutil.copytree(checkpoint, tmp_path / "step-000002")
    for file in blank.glob("*.safetensors"):
        rewrite(file, {name: _without_state(name, value) for name, value in load_file(file).items()})
    restate(blank)
    lost = losses(other, options(tmp_path / "lost", **given | {"resume_from": blank, "checkpoint_every": None}))
    assert lost != pytest.approx(expected[2:], abs=METHODS[optimizer])
    with pytest.raises(SpecError, match=f"was written with optimizer {optimizer}, and the plan trains with adamw"):
        read_manifest(checkpoint, tiny(READS))


def _without_state(name: str, value: torch.Tensor) -> torch.Tensor:
    return value if name.startswith("model.") or name.endswith("step") else torch.full_like(value, 1e-3)
