"""Runs of adapters: they resume to the same losses, also under another plan, and start from what they say they start from."""

from pathlib import Path

import pytest
from safetensors import safe_open

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.training.frozen_start import adapter_settings
from shardwright.executor.training.run_folder import RunFolder
from shardwright.specs.plan import Plan
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import FamilyName, layers, plan

LORA = "lora:r=4,targets=attention"


def adapted(divided: Plan, trainable: str = LORA, *, family: FamilyName = "llama") -> PlanFile:
    file = tiny(divided, family=family)
    training = file.training.model_validate({**file.training.model_dump(), "trainable": trainable})
    return file.model_copy(update={"training": training})


FSDP, PIPELINE, TENSOR = (
    plan((layers(zero=3),), dp_shard=2),
    plan((layers(1),), (layers(1),), pp=2),
    plan((layers(),), tp=2),
)


@pytest.mark.parametrize(("trainable", "then"), [(LORA, TENSOR), (LORA, PIPELINE), ("layers:1", PIPELINE)])
def test_a_run_resumes_under_another_plan(trainable: str, then: Plan, tmp_path: Path) -> None:
    data, alpha = text_file(tmp_path), _alpha(trainable)
    constant = {"min_learning_rate_fraction": 1.0, "warmup_steps": 0}
    whole = options(tmp_path / "whole", data=data, lora_alpha=alpha, **constant)
    straight = losses(adapted(FSDP, trainable), whole)
    first = options(tmp_path / "first", data=data, steps=3, lora_alpha=alpha, **constant)
    assert losses(adapted(FSDP, trainable), first) == straight[:3]
    told: list[str] = []
    checkpoint = first.out / "checkpoints/step-000003"
    again = options(tmp_path / "second", data=data, resume_from=checkpoint, **constant)
    resumed = losses(adapted(then, trainable), again, told=told)
    assert "continuing from" in told[0]
    assert resumed == pytest.approx(straight[3:], abs=2e-5)
    assert all("lora_" in name for name in _names(checkpoint)) == (trainable == LORA)
    assert not any(".0." in name for name in _names(checkpoint)) or trainable == LORA


def _names(checkpoint: Path) -> set[str]:
    found: set[str] = set()
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            found |= set(opened.keys())
    return found


def test_frozen_weights_of_another_seed_and_another_scale_are_refused(tmp_path: Path) -> None:
    data = text_file(tmp_path)
    one = adapted(plan((layers(),)))
    losses(one, options(tmp_path / "first", data=data, steps=1, seed=5, lora_alpha=8))
    checkpoint = tmp_path / "first/checkpoints/step-000001"

    def refused(file: PlanFile, **given: object) -> str:
        with pytest.raises(SpecError) as raised:
            RunFolder(tmp_path / "second").start(
                file, options(tmp_path / "second", data=data, resume_from=checkpoint, **given)
            )
        return str(raised.value)

    assert "made from seed 5, and this run's from seed 0; give --seed 5" in refused(one)
    assert "have alpha 8 (scale 2), and this run's 4 (scale 1); give --lora-alpha 8" in refused(
        one, seed=5, lora_alpha=4
    )
    assert "plan with --trainable lora:r=4,targets=attention" in refused(tiny(plan((layers(),))), seed=5)
    assert "plan with --trainable lora:r=4,targets=attention" in refused(adapted(plan((layers(),)), "lora:r=4"), seed=5)
    with pytest.raises(SpecError, match=r"lora_alpha 4.0 is of adapters, and the plan trains all"):
        adapter_settings(tiny(plan((layers(),))), options(tmp_path / "x", data=data, lora_alpha=4))


def _alpha(trainable: str) -> float | None:
    return 12.0 if trainable == LORA else None
