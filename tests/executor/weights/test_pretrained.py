"""Which folders of weights are read, and what is said of others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.model import read_skeleton
from shardwright.executor.weights import Pretrained, conversion, elements, read_pretrained
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.test_weights import saved

LLAMA, EXPERTS = FAMILIES["llama"], FAMILIES["qwen3_moe"]


def read(folder: Path, config: dict[str, Any]) -> Pretrained:
    file: PlanFile = plan_file(config, plan((layers(int(config.get("num_hidden_layers", 2))),)))
    return read_pretrained(folder, file, read_skeleton(file))


def refused(folder: Path, config: dict[str, Any] = LLAMA) -> str:
    with pytest.raises(SpecError) as caught:
        read(folder, config)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    return str(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("llama", "qwen3_moe")}
    for name, folder in made.items():
        saved(FAMILIES[name], folder)
    return made


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["llama"], tmp_path / "llama")


@pytest.fixture
def experts(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["qwen3_moe"], tmp_path / "experts")


def one_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None) -> Path:
    """Put all tensors of a folder into one file, changed."""
    tensors = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    change(tensors)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    save_file(tensors, folder / "model.safetensors")
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


class TestFolders:
    def test_shards_and_a_single_file_hold_the_same(self, llama: Path, tmp_path: Path) -> None:
        assert len(list(llama.glob("*.safetensors"))) >= 2
        sharded = {name: elements(value) for name, value in read(llama, LLAMA).tensors.items()}
        whole = read(one_file(shutil.copytree(llama, tmp_path / "whole")), LLAMA).tensors
        assert all(torch.equal(elements(whole[name]), value) for name, value in sharded.items())
        assert sharded.keys() == whole.keys()

    def test_half_precision_is_read_as_it_is(self, tmp_path: Path) -> None:
        model = saved(LLAMA, tmp_path, dtype=torch.bfloat16)
        found = read(tmp_path, LLAMA).tensors
        assert all(torch.equal(elements(found[name]), value) for name, value in model.state_dict().items())

    def test_what_is_no_folder_of_weights(self, llama: Path, tmp_path: Path) -> None:
        assert "no such folder" in refused(tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        assert "has no config.json" in refused(tmp_path / "empty")
        (tmp_path / "empty" / "adapter_config.json").write_text("{}")
        assert "holds an adapter alone; merge it" in refused(tmp_path / "empty")
        for path in llama.glob("*.safetensors*"):
            path.unlink()
        assert "holds neither model.safetensors nor" in refused(llama)

    def test_pickles_are_not_read(self, llama: Path) -> None:
        for path in llama.glob("*.safetensors*"):
            path.unlink()
        (llama / "pytorch_model.bin").write_bytes(b"")
        message = refused(llama)
        assert "holds pytorch_model.bin and no safetensors; pickles are not read" in message
        assert "save_pretrained" in message

    def test_quantized_weights(self, llama: Path) -> None:
        assert "its weights are quantized (mxfp4)" in refused(
            edit_config(llama, quantization_config={"quant_method": "mxfp4"})
        )
        edit_config(llama, quantization_config=None)
        one_file(llama, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(torch.int8)}))
        assert "'model.norm.weight' holds I8" in refused(llama)

    def test_files_that_may_not_be_read(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """safetensors says of them that they do not exist."""
        opened = Path.open

        def refusing(path: Path, *given: Any, **options: Any) -> Any:
            if path.suffix == ".safetensors":
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *given, **options)

        monkeypatch.setattr(Path, "open", refusing)
        assert "is damaged or cannot be read (Permission denied); copy it again" in refused(llama)

    def test_damage(self, llama: Path, tmp_path: Path) -> None:
        (first, *_) = sorted(llama.glob("*.safetensors"))
        content = first.read_bytes()
        first.write_bytes(content[:-5])
        assert "is damaged or cannot be read" in refused(llama)
        first.unlink()
        assert f"names {first.name}, which is absent; copy the folder again" in refused(llama)
        shutil.copy(sorted(llama.glob("*.safetensors"))[0], first)
        assert "which does not hold it" in refused(llama)
        index = llama / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
        assert "names '../a.safetensors', which is no safetensors file of this folder" in refused(llama)
        index.write_text("{}")
        assert "has no weight_map" in refused(llama)


class TestModels:
    def test_another_architecture(self, llama: Path) -> None:
        message = refused(llama, model_config("qwen3"))
        assert (
            message
            == f"{llama}: holds a llama, and the plan's model tiny-qwen3 is a qwen3; plan with {llama}/config.json"
        )

    def test_another_computation_of_the_same_shapes(self, llama: Path) -> None:
        assert "its config has rms_norm_eps 0.01, and the plan's model 1e-06" in refused(
            edit_config(llama, rms_norm_eps=0.01)
        )
        rope = {"rope_theta": 5e5, "rope_type": "default"}
        assert "its config has rope_parameters" in refused(edit_config(llama, rms_norm_eps=1e-6, rope_parameters=rope))
        edit_config(
            llama,
            rope_theta=1e4,
            rope_parameters=None,
            n_ctx=1024,
            max_position_embeddings=4096,
            eos_token_id=7,
            torch_dtype="bfloat16",
        )
        read(llama, LLAMA)

    def test_missing_tensors_are_named(self, llama: Path) -> None:
        one_file(llama, lambda t: [t.pop(f"model.layers.{layer}.mlp.up_proj.weight") for layer in (0, 1)])
        assert "lacks 'model.layers.0.mlp.up_proj.weight', 'model.layers.1.mlp.up_proj.weight', which Llama" in refused(
            llama
        )

    @pytest.mark.parametrize("absent", ["experts.1.up_proj", "experts.3.down_proj"])
    def test_a_missing_expert_is_named(self, experts: Path, absent: str) -> None:
        one_file(experts, lambda t: t.pop(f"model.layers.1.mlp.{absent}.weight"))
        assert f"lacks 'model.layers.1.mlp.{absent}.weight'" in refused(experts, EXPERTS)

    def test_extra_tensors_are_named(self, llama: Path) -> None:
        one_file(llama, lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(32)}))
        assert "holds 'model.layers.2.input_layernorm.weight', for which LlamaForCausalLM has no place" in refused(
            llama
        )

    def test_misshaped_tensors_are_named(self, llama: Path, experts: Path) -> None:
        one_file(llama, lambda t: t.update({"model.norm.weight": torch.ones(31)}))
        assert "'model.norm.weight' has shape (31,) there, and (32,) in this plan's model" in refused(llama)
        name = "model.layers.0.mlp.experts.{}.down_proj.weight"
        one_file(experts, lambda t: t.update({name.format(index): torch.ones(32, 17) for index in range(4)}))
        assert f"'{name.format(0)}' has shape (32, 17) there, and (32, 16) in" in refused(experts, EXPERTS)

    def test_experts_beyond_those_of_the_config(self, experts: Path) -> None:
        name = "model.layers.0.mlp.experts.{}.down_proj.weight"
        one_file(experts, lambda t: t.update({name.format(4): torch.ones(32, 16)}))
        assert "'model.layers.0.mlp.experts.down_proj' has shape (5, 32, 16) there, and (4, 32, 16)" in refused(
            experts, EXPERTS
        )

    def test_what_old_checkpoints_hold_beside_weights_is_passed_over(self, llama: Path) -> None:
        one_file(llama, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
        read(llama, LLAMA)

    def test_names_without_the_prefix_of_the_base_model(self, tmp_path: Path) -> None:
        """As the first checkpoints of GPT-2."""
        config = FAMILIES["gpt2"]
        saved(config, tmp_path)
        whole = {name: elements(value) for name, value in read(tmp_path, config).tensors.items()}

        def without(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                tensors[name.removeprefix("transformer.")] = tensors.pop(name)

        found = read(one_file(tmp_path, without), config).tensors
        assert all(torch.equal(elements(found[name]), value) for name, value in whole.items())

    def test_tied_weights(self, tmp_path: Path) -> None:
        """One of them is enough, two must be equal."""
        config = {**LLAMA, "tie_word_embeddings": True}
        saved(config, tmp_path)
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        own = elements(read(tmp_path, config).tensors[embedding])
        one_file(tmp_path, lambda t: t.update({head: t[embedding].clone()}))
        assert read(tmp_path, config).tensors.keys() & {embedding, head} == {embedding}
        one_file(tmp_path, lambda t: t.pop(embedding))
        assert torch.equal(elements(read(tmp_path, config).tensors[embedding]), own)
        one_file(tmp_path, lambda t: t.update({embedding: t[head] + 1}))
        assert "'lm_head.weight' and 'model.embed_tokens.weight' differ, and its config ties them" in refused(
            tmp_path, config
        )

    def test_without_transformers_conversions_experts_find_no_place(
        self, experts: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The negative control of names and shapes."""
        monkeypatch.setattr(conversion, "get_model_conversion_mapping", lambda _model: [])
        assert "has no place" in refused(experts, EXPERTS) or "lacks" in refused(experts, EXPERTS)
