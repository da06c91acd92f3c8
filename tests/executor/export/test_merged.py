"""Fine-tuning of weights from a folder: frozen ones come back after a resume, and adapters are added to them as PEFT does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from shardwright.base.errors import RunFailedError, SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import peft_folder
from shardwright.executor.export import ExportOptions, export_adapters, export_weights
from shardwright.executor.options import RunOptions
from shardwright.executor.training.manifest import plan_digest
from shardwright.executor.training.run_folder import RunFolder, RunIdentity
from tests.executor.runs import VOCABULARY, losses, options, text_file, tiny
from tests.executor.training.test_adapters import FSDP, TENSOR, adapted
from tests.parity.cases import FamilyName, layers, plan
from tests.parity.families import FAMILIES

LORA = "lora:r=4,targets=all-linear"
CONSTANT: dict[str, Any] = {"min_learning_rate_fraction": 1.0, "warmup_steps": 0, "learning_rate": 0.01}


def base(folder: Path, family: FamilyName = "llama", seed: int = 0, config: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(seed)
    config = config or tiny(plan((layers(),)), family=family).model_config_json
    built: Any = AutoModelForCausalLM
    built.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)
    return folder


def fine_tuned(file: PlanFile, run: RunOptions) -> Path:
    RunFolder(run.out).prepare(file, run, RunIdentity(plan_digest=plan_digest(file), data_digest="", seed=run.seed))
    losses(file, run)
    return run.out


def _full(*_args: Any, **_options: Any) -> None:
    raise SafetensorError("No space left on device")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_weights_are_those_of_peft(family: FamilyName, tmp_path: Path) -> None:
    data, start = text_file(tmp_path), base(tmp_path / "base", family)
    run = options(tmp_path / "run", data=data, steps=3, init_from=start, lora_alpha=8, **CONSTANT)
    fine_tuned(adapted(plan((layers(),)), LORA, family=family), run)
    before = sorted(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(peft_folder, "save_file", _full)
        with pytest.raises(RunFailedError, match=r"adapters: cannot be written .*nothing is left of it"):
            export_adapters(run.out, tmp_path / "adapters")
    assert sorted(tmp_path.iterdir()) == before
    export_adapters(run.out, tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(start)
    export_weights(run.out, ExportOptions(to=tmp_path / "merged"))
    model = AutoModelForCausalLM.from_pretrained(start)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, tmp_path / "adapters").merge_and_unload().state_dict()
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    own, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in own.state_dict().items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-6)
    changed = {name for name in frozen if not torch.equal(frozen[name], merged[name])}
    assert len(changed) == 2 * (7 if family == "llama" else 4)


def test_merged_experts_are_those_of_peft(tmp_path: Path) -> None:
    """Trained under ep, with a shared expert and a dense layer beside the routed ones."""
    config = FAMILIES["deepseek_v3"] | {"vocab_size": VOCABULARY}
    file = adapted(plan((layers(zero=1),), dp_shard=2, ep=2), LORA)
    file = file.model_copy(update={"model_config_json": config})
    start = base(tmp_path / "base", config=config)
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=3, init_from=start, lora_alpha=8, **CONSTANT)
    fine_tuned(file, run)
    export_adapters(run.out, tmp_path / "adapters")
    export_weights(run.out, ExportOptions(to=tmp_path / "merged"))
    model = AutoModelForCausalLM.from_pretrained(start)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, tmp_path / "adapters").merge_and_unload().state_dict()
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, value in own.items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-6)
    changed = {name for name in frozen if not torch.equal(frozen[name], merged[name])}
    assert {name for name in changed if ".experts." in name} == {
        f"model.layers.1.mlp.experts.{weight}" for weight in ("gate_up_proj", "down_proj")
    }
    assert "model.layers.1.mlp.shared_experts.up_proj.weight" in changed
    assert "model.layers.1.mlp.gate.weight" not in changed


@pytest.mark.parametrize("trainable", [LORA, "layers:1"])
def test_a_resumed_run_has_the_frozen_weights_of_the_folder(trainable: str, tmp_path: Path) -> None:
    data, start = text_file(tmp_path), base(tmp_path / "base")
    whole = options(tmp_path / "whole", data=data, init_from=start, **CONSTANT)
    straight = losses(adapted(FSDP, trainable), whole)
    first = options(tmp_path / "first", data=data, steps=3, init_from=start, **CONSTANT)
    losses(adapted(FSDP, trainable), first)
    moved = (tmp_path / "base").rename(tmp_path / "moved")
    checkpoint = first.out / "checkpoints/step-000003"
    again = options(tmp_path / "second", data=data, init_from=moved, resume_from=checkpoint, **CONSTANT)
    assert losses(adapted(TENSOR, trainable), again) == pytest.approx(straight[3:], abs=2e-5)
    for given in ({}, {"init_from": base(tmp_path / "other", seed=1)}):
        other = options(tmp_path / f"third-{len(given)}", data=data, resume_from=checkpoint, **given, **CONSTANT)
        with pytest.raises(SpecError, match=r"its frozen weights are made from init-from .* give --init-from .*/base$"):
            RunFolder(other.out).start(adapted(TENSOR, trainable), other)


def test_a_run_of_all_weights_starts_from_weights_or_from_a_checkpoint(tmp_path: Path) -> None:
    data, file = text_file(tmp_path), adapted(plan((layers(),)), "all")
    first = options(tmp_path / "first", data=data, steps=3)
    losses(file, first)
    checkpoint = first.out / "checkpoints/step-000003"
    both = options(tmp_path / "both", data=data, init_from=base(tmp_path / "base"), resume_from=checkpoint)
    with pytest.raises(SpecError, match="init_from and resume_from both say what to start from; give one of them"):
        RunFolder(both.out).start(file, both)


def test_drawn_weights_are_not_merged(tmp_path: Path) -> None:
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=1)
    fine_tuned(adapted(plan((layers(),)), LORA), run)
    with pytest.raises(
        SpecError, match="beside weights that were drawn from seed 0; run with --init-from, or export the"
    ):
        export_weights(run.out, ExportOptions(to=tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_weights_that_moved_since_are_merged(tmp_path: Path) -> None:
    """The run has gone on from its new place, and the checkpoint is of the old one."""
    start = base(tmp_path / "base")
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=1, init_from=start)
    fine_tuned(adapted(plan((layers(),)), LORA), run)
    again = run.model_copy(update={"init_from": start.rename(tmp_path / "moved")})
    RunFolder(run.out).options.write_text(again.model_dump_json())
    export_weights(run.out, ExportOptions(to=tmp_path / "merged"))
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_weights_that_changed_since_are_not_merged(tmp_path: Path) -> None:
    start = base(tmp_path / "base")
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=1, init_from=start)
    fine_tuned(adapted(plan((layers(),)), LORA), run)
    base(start, seed=1)
    with pytest.raises(SpecError, match=r"its frozen weights were init-from .*, and now it is .*; put them back"):
        export_weights(run.out, ExportOptions(to=tmp_path / "merged"))
