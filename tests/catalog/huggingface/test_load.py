"""What a person may type for a model, and what is never done with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.huggingface.load import load_model, preset_names
from tests.catalog.huggingface.small_configs import LLAMA, read


class TestLoadModel:
    """A reference with a separator or ending in .json is a path, any other a preset first."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The current folder, with a model of ours in a folder called as a preset and in another."""
        monkeypatch.chdir(tmp_path)
        for name in ("gpt2-124m", "mine"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(json.dumps(LLAMA))
        (tmp_path / "other.json").write_text(json.dumps(LLAMA))
        (tmp_path / "bare").write_text(json.dumps(LLAMA))
        (tmp_path / "empty").mkdir()
        return tmp_path

    def test_preset_in_any_case(self) -> None:
        assert load_model("Llama-3.1-70B") == load_model("llama-3.1-70b")

    def test_preset_wins_over_a_folder_of_its_name(self, folder: Path) -> None:
        assert load_model("gpt2-124m").family == "gpt2"

    @pytest.mark.parametrize(
        ("reference", "name"),
        [
            ("./gpt2-124m", "gpt2-124m"),
            ("mine", "mine"),
            ("mine/", "mine"),
            ("mine/config.json", "mine"),
            ("other.json", "other"),
            ("bare", "bare"),
        ],
    )
    def test_path(self, folder: Path, reference: str, name: str) -> None:
        model = load_model(reference)
        assert (model.family, model.name) == ("llama", name)

    def test_config_in_the_current_folder_is_called_after_the_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder / "mine")
        assert load_model("config.json").name == "mine"
        assert load_model(".").name == "mine"

    @pytest.mark.parametrize(
        ("reference", "part"),
        [
            ("llama-3.1-70", "no preset, file or folder has that name. Did you mean 'llama-3.1-70b'?"),
            ("meta-llama/Llama-3.1-70B", "no such file or folder. Did you mean 'llama-3.1-70b'?"),
            ("gpt2-124m.json", "no such file or folder. Did you mean 'gpt2-124m'?"),
            ("gpt2", "Did you mean one of gpt2-1.5b, gpt2-124m, gpt2-355m, gpt2-774m?"),
            ("qwen3-235b", "Did you mean 'qwen3-235b-a22b'?"),
            ("lama-3.1-8b", "Did you mean 'llama-3.1-8b'?"),
            ("llama3.1-8b", "Did you mean 'llama-3.1-8b'?"),
            ("Qwen/Qwen2.5-7B-Instruct", "Did you mean 'qwen2.5-7b'?"),
            ("", "give a preset's name"),
            ("empty", "the folder holds no config.json"),
            ("x" * 5000, f"There are {len(preset_names())} presets"),
            ("\0", "no preset, file or folder"),
        ],
    )
    def test_reference_to_nothing(self, folder: Path, reference: str, part: str) -> None:
        with pytest.raises(SpecError) as refusal:
            load_model(reference)
        assert part in str(refusal.value)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        "reference",
        [
            *("phimoe", "mamba-130m", "mamba-2.8b", "zamba2-7b", "llama-4-scout", "deepseek-v3.2", "gpt-j-6b"),
            *("phi-4-mini", "kimi-linear-48b-a3b", "gemma-3n-e4b", "falcon-mamba-7b", "mimo-7b", "gpt2-medium"),
        ],
    )
    def test_no_other_model_is_named_for_one_that_no_preset_is(self, folder: Path, reference: str) -> None:
        with pytest.raises(SpecError, match=f"There are {len(preset_names())} presets") as refusal:
            load_model(reference)
        assert "Did you mean" not in str(refusal.value)

    @pytest.mark.parametrize("content", ["", '{"model_type": "llama", "hid', "{'model_type': 'llama'}", '{"a": NaN}'])
    def test_file_that_is_no_json(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SpecError, match=r"config\.json"):
            load_model(str(tmp_path))

    def test_code_beside_a_configuration_is_never_run(self, tmp_path: Path) -> None:
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\nclass Config: pass\n")
        config = LLAMA | {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert load_model(str(tmp_path)).parameter_count == read(LLAMA).parameter_count
        assert not (tmp_path / "was_run").exists()

    def test_imports_neither_torch_nor_transformers(self) -> None:
        code = (
            "import sys; from shardwright.catalog.huggingface import load_model; load_model('qwen3-demo');"
            "print([name for name in ('torch', 'transformers') if name in sys.modules])"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
