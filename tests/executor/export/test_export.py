"""Exports of a trained run: what is written, what is refused, and what an interrupted one leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from shardwright.base.errors import RunFailedError, SpecError
from shardwright.executor.export import ExportOptions, export, export_weights, place
from shardwright.executor.options import RunOptions
from shardwright.executor.training.run_folder import RunFolder, RunIdentity
from shardwright.executor.weights import elements
from tests.executor.runs import losses, options, text_file, tiny
from tests.executor.tokenizers import tokenizer_folder
from tests.parity.cases import layers, plan

FILE = tiny(plan((layers(zero=3),), dp_shard=2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks with checkpoints after steps 3 and 6."""
    folder = tmp_path_factory.mktemp("trained")
    run = options(folder / "run", data=text_file(folder))
    RunFolder(run.out).prepare(FILE, run, RunIdentity(plan_digest="", data_digest="", seed=0))
    losses(FILE, run)
    return run.out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def exported(run: Path, to: Path, **given: Any) -> dict[str, Tensor]:
    export_weights(run, ExportOptions(to=to, **given), progress=lambda _line: None)
    found: Any = AutoModelForCausalLM.from_pretrained(to, output_loading_info=True)
    assert not any(found[1].values())
    return {name: tensor for path in to.glob("*.safetensors") for name, tensor in load_file(path).items()}


def refused(run: Path, to: Path, **given: Any) -> str:
    before = sorted(to.parent.rglob("*"))
    with pytest.raises(SpecError) as caught:
        export_weights(run, ExportOptions(to=to, **given), progress=lambda _line: None)
    assert "\n" not in str(caught.value)
    assert sorted(to.parent.rglob("*")) == before, "something was written"
    return str(caught.value)


def test_the_newest_checkpoint_or_that_of_a_step(run: Path, tmp_path: Path) -> None:
    newest, sixth, third = (
        exported(run, tmp_path / name, **given)
        for name, given in (("newest", {}), ("sixth", {"step": 6}), ("third", {"step": 3}))
    )
    assert all(torch.equal(newest[name], value) for name, value in sixth.items())
    assert not all(torch.equal(newest[name], value) for name, value in third.items())


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_that_of_the_weights_rounded(
    run: Path, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    whole, half = exported(run, tmp_path / "whole"), exported(run, tmp_path / "half", dtype=name)
    assert {value.dtype for value in half.values()} == {dtype}
    assert all(torch.equal(half[key], value.to(dtype)) for key, value in whole.items())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_so_much_is_in_memory_as_one_file_holds(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is read once, and no file's tensors before the file before is written."""
    moments: list[tuple[str, int]] = []

    def noted_read(tensor: Tensor) -> Tensor:
        found = elements(tensor)
        moments.append(("read", found.nbytes))
        return found

    def noted_save(tensors: dict[str, Tensor], *args: Any, **options: Any) -> None:
        moments.append(("written", sum(tensor.nbytes for tensor in tensors.values())))
        save_file(tensors, *args, **options)

    monkeypatch.setattr(export, "elements", noted_read)
    monkeypatch.setattr(export, "save_file", noted_save)
    found = exported(run, tmp_path / "to", max_shard_size="40KB")
    files = sorted((tmp_path / "to").glob("*.safetensors"))
    assert len(files) >= 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    held = 0
    for what, size_bytes in moments:
        held = held + size_bytes if what == "read" else held - size_bytes
        assert held <= 40_000
    assert sum(size_bytes for what, size_bytes in moments if what == "read") == sum(
        value.nbytes for value in found.values()
    )
    index = json.loads((tmp_path / "to" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)


def test_tokenizer_and_generation_config_go_with_the_weights(run: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "generation_config.json").write_text(
        '{"eos_token_id": 0, "temperature": 0.5, "do_sample": true}'
    )
    tokenizer_folder(tmp_path / "source", template="{{ messages }}")
    given = RunOptions(out=run, init_from=tmp_path / "source", tokenizer=tmp_path / "source")
    RunFolder(run).keep_beside(given, 300)
    exported(run, tmp_path / "to")
    own: Any = AutoTokenizer.from_pretrained(tmp_path / "to")
    assert own.decode(own("3 times 3 is 9")["input_ids"]) == "3 times 3 is 9"
    assert own.chat_template == "{{ messages }}"
    assert json.loads((tmp_path / "to" / "generation_config.json").read_text())["temperature"] == 0.5


def test_an_empty_folder_is_filled_and_another_is_not(run: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    exported(run, tmp_path / "to")
    assert refused(run, tmp_path / "to") == f"{tmp_path}/to: is a folder that is not empty; give a new folder with --to"
    (tmp_path / "file").write_text("")
    assert "is a file; give a new folder" in refused(run, tmp_path / "file")


def test_what_is_no_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert "is no folder of a run (no plan.json)" in refused(tmp_path / "other", tmp_path / "to")
    assert "holds no checkpoint after step 4; give --step 3 or 6" in refused(run, tmp_path / "to", step=4)
    assert "'7 apples' is no size above 0; write it as 5GB or 500MB" in refused(
        run, tmp_path / "to", max_shard_size="7 apples"
    )
    shutil.rmtree(run / "checkpoints")
    assert "holds no complete checkpoint" in refused(run, tmp_path / "to")


def test_a_damaged_checkpoint_is_not_exported(run: Path, tmp_path: Path) -> None:
    path = sorted((run / "checkpoints" / "step-000006").glob("*.safetensors"))[-1]
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    assert f"{path.name} is damaged" in refused(run, tmp_path / "to")
    exported(run, tmp_path / "to", step=3)


def test_a_weight_that_does_not_fit_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "elements", lambda tensor: torch.full(tensor.shape, 1e6).to(tensor.dtype))
    assert "has elements that are not finite in fp16; give --dtype bf16" in refused(run, tmp_path / "to", dtype="fp16")
    monkeypatch.setattr(export, "elements", lambda tensor: torch.full(tensor.shape, torch.nan))
    assert "not finite in fp32; training has diverged" in refused(run, tmp_path / "to")


def _full(*_args: Any, **_options: Any) -> None:
    raise OSError(28, "No space left on device")


class Killed(BaseException):
    pass


def _killed(*_args: Any, **_options: Any) -> None:
    raise Killed


@pytest.mark.parametrize("moment", [(export, "save_file"), (export, "_write_config"), (place, "sync")])
@pytest.mark.parametrize(("fault", "error"), [(_full, RunFailedError), (_killed, Killed)])
def test_an_export_that_ends_early_leaves_no_folder(
    run: Path,
    tmp_path: Path,
    moment: tuple[ModuleType, str],
    fault: Callable[..., None],
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(*moment, fault)
        with pytest.raises(error):
            exported(run, tmp_path / "to")
    assert sorted(tmp_path.iterdir()) == before
    exported(run, tmp_path / "to")
