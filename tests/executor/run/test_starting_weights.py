"""Runs that start from weights, and the tokenizer that goes with them, as the launcher sees them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile, write_plan_file
from shardwright.executor.export import ExportOptions, export_weights
from shardwright.executor.options import RunOptions
from shardwright.executor.run import launching
from shardwright.executor.run.launching import launch
from tests.executor.runs import text_file
from tests.executor.tokenizers import VOCABULARY, tokenizer_folder
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.test_weights import saved

CONFIG = model_config("llama", vocab_size=VOCABULARY)
ONE = plan((layers(),))


class NotStartedError(Exception):
    """A process would have been started."""


@pytest.fixture
def no_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_args: object, **_options: object) -> None:
        raise NotStartedError

    monkeypatch.setattr(launching, "run_workers", started)


def write(folder: Path, file: PlanFile) -> Path:
    path = folder / "plan.json"
    path.unlink(missing_ok=True)
    write_plan_file(path, file)
    return path


def started(folder: Path, told: list[str] | None = None, **given: Any) -> None:
    """Get as far as the start of the processes."""
    options = RunOptions(out=folder / "run", data=(folder / "text.txt",), **given)
    with pytest.raises(NotStartedError):
        launch(write(folder, plan_file(CONFIG, ONE)), options, progress=(told if told is not None else []).append)


def refused(folder: Path, **given: Any) -> str:
    with pytest.raises(SpecError) as caught:
        launch(
            write(folder, plan_file(CONFIG, ONE)), RunOptions(out=folder / "run", data=(folder / "text.txt",), **given)
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("no_process_starts")
class TestBeforeTheStart:
    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path) -> None:
        text_file(tmp_path)
        saved(CONFIG, tmp_path / "weights")

    def test_wrong_weights_are_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        saved(model_config("qwen3", vocab_size=VOCABULARY), tmp_path / "other")
        assert "holds a qwen3, and the plan's model tiny-llama is a llama" in refused(
            tmp_path, init_from=tmp_path / "other"
        )
        (tmp_path / "weights" / "model-00001-of-00003.safetensors").unlink()
        assert "names model-00001-of-00003.safetensors, which is absent" in refused(
            tmp_path, init_from=tmp_path / "weights"
        )
        assert not (tmp_path / "run").exists()

    def test_a_folder_belongs_to_the_weights_that_its_run_started_from(self, tmp_path: Path) -> None:
        started(tmp_path, init_from=tmp_path / "weights")
        saved({**CONFIG, "tie_word_embeddings": False}, tmp_path / "others", dtype=torch.bfloat16)
        for given in ({"init_from": tmp_path / "others"}, {}):
            assert "holds a run with another init_from" in refused(tmp_path, **given)
        started(tmp_path, init_from=tmp_path / "weights")

    def test_the_tokenizer_beside_the_weights_is_taken_and_kept(self, tmp_path: Path) -> None:
        tokenizer_folder(tmp_path / "weights")
        (tmp_path / "weights" / "generation_config.json").write_text("{}")
        told: list[str] = []
        started(tmp_path, told, init_from=tmp_path / "weights")
        assert told[0].startswith(f"tokenised 1 documents by {tmp_path}/weights into ")
        own: Any = AutoTokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
        assert own.eos_token == "<end>"
        assert (tmp_path / "run" / "generation_config.json").read_text() == "{}"

    def test_other_text_under_the_same_name_and_size_is_other_data(self, tmp_path: Path) -> None:
        tokenizer_folder(tmp_path / "tokenizer")
        started(tmp_path, tokenizer=tmp_path / "tokenizer")
        text = (tmp_path / "text.txt").read_text()
        (tmp_path / "text.txt").write_text(text.replace("0 times 0 is 0", "1 times 0 is 0"))
        assert "holds a run with another data" in refused(tmp_path, tokenizer=tmp_path / "tokenizer")
        (tmp_path / "text.txt").write_text(text)
        started(tmp_path, tokenizer=tmp_path / "tokenizer")
        tokenizer_folder(tmp_path / "tokenizer", end=None)
        assert "holds a run with another data" in refused(tmp_path, tokenizer=tmp_path / "tokenizer")

    def test_files_of_others_are_not_written_beside(self, tmp_path: Path) -> None:
        tokenizer_folder(tmp_path / "tokenizer")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("")
        assert "holds files that do not belong to a run" in refused(tmp_path, tokenizer=tmp_path / "tokenizer")
        assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_a_run_of_processes_starts_from_weights_goes_on_and_is_exported(tmp_path: Path) -> None:
    data = text_file(tmp_path)
    model = saved(CONFIG, tmp_path / "weights", dtype=torch.bfloat16)
    tokenizer_folder(tmp_path / "weights")
    path = write(tmp_path, plan_file(CONFIG, plan((layers(1),), (layers(1),), pp=2)))
    told: list[str] = []
    options = RunOptions(
        out=tmp_path / "run", data=(data,), init_from=tmp_path / "weights", steps=2, learning_rate=1e-20
    )
    for steps in (2, 4):
        launch(path, options.model_copy(update={"steps": steps}), progress=told.append)
    assert [line for line in told if line.startswith("starting from")] == [
        f"starting from the weights in {tmp_path}/weights"
    ]
    assert any(line.startswith("continuing from") for line in told)
    export_weights(tmp_path / "run", ExportOptions(to=tmp_path / "to", dtype="bf16"), progress=told.append)
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "to", dtype=torch.bfloat16).state_dict()
    # a weight of exactly 0 in bf16 takes up the smallest step
    assert all(torch.allclose(own[name], value, rtol=0, atol=1e-18) for name, value in model.state_dict().items())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "to")) == 300
