"""A folder of weights in Hugging Face's layout: which tensors lie in which safetensors file. Only headers are read."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shardwright.base import SpecError, files_digest, read_json

from .nodes import InFile
from .stored import StoredTensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_READABLE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class WeightsFolder:
    """Tensors by the names of the checkpoint, none of them read yet; `config` is the folder's config.json."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    digest: str
    """Of names, types, shapes and places of all tensors, and of what the files hold (`base.files_digest`)."""


def read_weights_folder(folder: Path) -> WeightsFolder:
    """Return what lies in a folder that transformers' `save_pretrained` wrote, whole or in shards.

    Raises:
        SpecError: it is no such folder, its files are damaged, or its weights are pickled, quantized or of an adapter.
    """
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder; give one with config.json and safetensors")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise SpecError(
            f"{folder}: holds an adapter alone; merge it into its model first (peft: merge_and_unload), and save that"
        )
    if not (folder / "config.json").is_file():
        raise SpecError(
            f"{folder}: has no config.json, which says what model its weights are of; give a folder that save_pretrained wrote"
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise SpecError(f"{folder / 'config.json'}: is no JSON object")
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "some method") if isinstance(quantized, dict) else "some method"
        raise SpecError(
            f"{folder}: its weights are quantized ({method}), and training needs them in bf16, fp16 or fp32; load them with transformers and "
            "dequantize=True, and save_pretrained"
        )
    weight_map = _weight_map(folder)
    tensors, described = {}, []
    files = sorted(set(weight_map.values()))
    for file in files:
        opened = TensorFile(folder / file)
        for name in opened.names():
            if weight_map.get(name, file) == file:
                found = opened.tensor(name)
                tensors[name] = StoredTensor(found)
                described.append(f"{file} {name} {found.dtype} {found.shape}")
    absent = sorted(weight_map.keys() - tensors.keys() - {""})
    if absent:
        raise SpecError(
            f"{folder}: {INDEX} says that '{absent[0]}' is in {weight_map[absent[0]]}, which does not hold it; copy the folder again"
        )
    paths = [folder / file for file in files]
    described.append(files_digest(paths, [path.stat().st_size for path in paths]))
    return WeightsFolder(folder, config, tensors, hashlib.sha256("\n".join(described).encode()).hexdigest()[:16])


def _weight_map(folder: Path) -> dict[str, str]:
    """Return the file of each tensor; of a single file {"": its name}."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        found = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
            raise SpecError(f"{folder / INDEX}: has no weight_map of names to files; copy the folder again")
        for file in sorted(set(found.values())):
            if file != Path(file).name or not file.endswith(".safetensors"):
                raise SpecError(f"{folder / INDEX}: names '{file}', which is no safetensors file of this folder")
            if not (folder / file).is_file():
                raise SpecError(f"{folder}: {INDEX} names {file}, which is absent; copy the folder again")
        return dict(found)
    if (folder / SINGLE).is_file():
        return {"": SINGLE}
    pickled = [path.name for pattern in _PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise SpecError(
            f"{folder}: holds {pickled[0]} and no safetensors; pickles are not read, as they can run code: load the folder with transformers "
            "once, and save_pretrained"
        )
    raise SpecError(f"{folder}: holds neither {SINGLE} nor {INDEX}; give a folder that save_pretrained wrote")


class TensorFile:
    """A safetensors file, mapped into memory when it is first read from.

    Raises:
        SpecError: it is damaged or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: Any = None

    def names(self) -> list[str]:
        with self._errors():
            return list(self._open().keys())

    def stored(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return the shape of a tensor and its type, as safetensors calls it."""
        with self._errors():
            piece = self._open().get_slice(name)
            return tuple(piece.get_shape()), str(piece.get_dtype())

    def tensor(self, name: str) -> InFile:
        """Return a tensor of a type that weights have, unread."""
        shape, kind = self.stored(name)
        if kind not in _READABLE:
            raise SpecError(
                f"{self.path}: '{name}' holds {kind}, and weights are read from {', '.join(_READABLE)}; give weights that are not quantized"
            )
        return InFile(shape, _READABLE[kind], partial(self._slice_of, name))

    def close(self) -> None:
        """Let the pages that were read go. The next read maps the file again."""
        self._opened = None

    def _slice_of(self, name: str) -> Any:
        with self._errors():
            return self._open().get_slice(name)

    def _open(self) -> Any:
        if self._opened is None:
            with self.path.open("rb"):  # of a file that may not be read safetensors says that there is none
                self._opened = safe_open(self.path, framework="pt")
        return self._opened

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, SpecError):
                raise
            reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
            raise SpecError(f"{self.path}: is damaged or cannot be read ({reason}); copy it again") from None
