"""Folders of PEFT: read as they were written, and refused where they are not what the plan trains."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from shardwright.base.errors import SpecError
from shardwright.executor.adapters import engine_adapters, read_peft_folder, write_peft_folder
from shardwright.executor.adapters.peft_folder import CONFIG, TENSORS, target_modules
from shardwright.executor.model import read_skeleton
from tests.parity.adapters import peft_model
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import reference_model

GIVEN = plan_file(FAMILIES["llama"], plan((layers(),)), trainable="lora:r=4,targets=attention")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    peft_model(GIVEN, TARGETS).save_pretrained(folder)
    return folder


def test_a_folder_is_read_and_written_as_peft_has_it(written: Path, tmp_path: Path) -> None:
    skeleton = read_skeleton(GIVEN)
    read = read_peft_folder(written, GIVEN, skeleton)
    assert read.settings.scale == 6 / 4
    tensors = load_file(written / TENSORS)
    assert engine_adapters(tensors).keys() == read.pairs.keys()
    trainable = GIVEN.training.trainable
    write_peft_folder(tmp_path / "again", tensors, read.settings, skeleton, trainable, base_model=None)
    again = read_peft_folder(tmp_path / "again", GIVEN, skeleton)
    assert again.settings == read.settings
    for path, pair in read.pairs.items():
        assert all(torch.equal(one, two) for one, two in zip(pair, again.pairs[path], strict=True))
    assert json.loads((tmp_path / "again" / CONFIG).read_text())["target_modules"] == sorted(TARGETS)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("targets", ["all-linear", "down_proj", "up_proj"])
def test_peft_computes_the_same_with_a_folder_of_experts(family: str, targets: str, tmp_path: Path) -> None:
    """Read from PEFT, written by this project and loaded in PEFT again, where shared experts and dense layers lie beside."""
    given = plan_file(FAMILIES[family], plan((layers(),)), trainable=f"lora:r=4,targets={targets}")
    attention = [*TARGETS, "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]
    theirs = peft_model(given, attention if targets == "all-linear" else [])
    theirs.save_pretrained(tmp_path / "theirs")
    skeleton = read_skeleton(given)
    read = read_peft_folder(tmp_path / "theirs", given, skeleton)
    tensors = load_file(tmp_path / "theirs" / TENSORS)
    write_peft_folder(tmp_path / "own", tensors, read.settings, skeleton, given.training.trainable, base_model=None)
    again = PeftModel.from_pretrained(reference_model(given), tmp_path / "own")
    tokens = torch.arange(24).view(2, 12)
    expected = theirs(input_ids=tokens).logits
    assert torch.equal(again(input_ids=tokens).logits, expected)
    with again.disable_adapter():
        assert not torch.allclose(again(input_ids=tokens).logits, expected, atol=1e-3)


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **changes}))

    return change


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS)

    return apply


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_config(peft_type="IA3"), "peft_type IA3 is not supported; allowed: LORA"),
        (_config(use_dora=True), "use_dora True in adapter_config.json is not supported"),
        (_config(rank_pattern={"q_proj": 8}), "rank_pattern {'q_proj': 8} in adapter_config.json is not supported"),
        (_config(init_lora_weights="pissa"), "init_lora_weights pissa"),
        (_config(bias="all"), "bias all"),
        (_config(modules_to_save=["lm_head"]), "modules_to_save ['lm_head']"),
        (_config(r=8), "adapters have rank 8 and the plan's 4; plan with --trainable lora:r=8,targets=attention"),
        (_config(lora_alpha="much"), "alpha"),
        (_tensors(lambda tensors: tensors.pop(NAME)), f"lacks {NAME} of the plan's adapters"),
        (_tensors(lambda tensors: tensors.update(more=torch.zeros(1))), "also holds more, which the plan"),
        (_tensors(lambda tensors: tensors.update({NAME: torch.zeros(3, 4)})), f"{NAME} has shape (3, 4), not (32, 4)"),
        (lambda folder: (folder / TENSORS).unlink(), "holds no adapter_model.safetensors"),
        (lambda folder: (folder / CONFIG).unlink(), "holds no adapter_config.json"),
        (lambda folder: (folder / CONFIG).write_text("[1]"), "is no JSON object"),
        (lambda folder: (folder / TENSORS).write_bytes(b"not"), "cannot be read"),
    ],
)
def test_a_folder_that_is_not_of_the_plan_gives_one_line(
    damage: Callable[[Path], None], words: str, written: Path, tmp_path: Path
) -> None:
    for name in (CONFIG, TENSORS):
        (tmp_path / name).write_bytes((written / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(SpecError) as raised:
        read_peft_folder(tmp_path, GIVEN, read_skeleton(GIVEN))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_target_modules_name_no_other_linear() -> None:
    every = [f"h.{index}.{part}" for index in range(2) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]
    assert target_modules(every, every) == ["c_attn", "c_proj"]
    assert target_modules([path for path in every if "attn" in path], every) == ["attn.c_proj", "c_attn"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to(torch.int8), "is of torch.int8, and adapters are read in fp64, fp32, fp16 or bf16"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "is of torch.float8_e4m3fn"),
        (lambda tensor: tensor * float("nan"), "has elements that are not finite"),
    ],
)
def test_adapters_that_are_no_numbers_to_train_from_are_refused(
    written: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    folder = shutil.copytree(written, tmp_path / "changed")
    tensors = load_file(folder / TENSORS)
    first = sorted(tensors)[0]
    save_file({**tensors, first: change(tensors[first])}, folder / TENSORS)
    with pytest.raises(SpecError, match=words):
        read_peft_folder(folder, GIVEN, read_skeleton(GIVEN))
