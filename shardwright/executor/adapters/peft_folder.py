"""Folders in PEFT's format: adapter_config.json and adapter_model.safetensors, in and out."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from shardwright.base import SpecError, read_json, write_whole
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton
from shardwright.specs import FEED_FORWARD_MODULES, Trainable

from .check import model_adapters
from .experts import expert_weights
from .peft_names import engine_adapters, expert_weight, peft_name
from .settings import AdapterSettings

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_READ = ("peft_type", "r", "lora_alpha", "use_rslora")
# What says where adapters are, which the tensors say too, and what a training loop reads
_BESIDE = (
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *(
        "target_modules",
        "target_parameters",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",
        "lora_dropout",
    ),
    *("megatron_config", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
)
_PLAIN: Mapping[str, tuple[object, ...]] = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""Values, beside absent and empty ones, with which an adapter still is s B A."""
_READABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MOST_NAMED = 3


class PeftFolder(NamedTuple):
    """What a folder holds. `pairs`: A (rank, inputs) and B (outputs, rank) by the path of their linear."""

    settings: AdapterSettings
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    digest: str


def read_peft_folder(folder: Path, plan_file: PlanFile, skeleton: Skeleton) -> PeftFolder:
    """Read the adapters in `folder`, which must be those of the plan.

    Raises:
        SpecError: the folder holds no plain LoRA adapters, those of another rank, or tensors that the plan's model does not have or
            that it lacks; names them.
    """
    settings = _read_settings(folder)
    trainable = plan_file.training.trainable
    if settings.rank != trainable.rank:
        given = trainable.model_copy(update={"rank": settings.rank})
        raise SpecError(
            f"{folder}: adapters have rank {settings.rank} and the plan's {trainable.rank}; plan with --trainable {given}"
        )
    tensors = _read_tensors(folder)
    wanted = {
        peft_name(path, matrix): shape
        for path, sizes in model_adapters(plan_file, skeleton).items()
        for matrix, shape in (
            ("lora_A", (settings.rank * sizes.experts, sizes.inputs)),
            ("lora_B", (sum(sizes.outputs), settings.rank * sizes.experts)),
        )
    }
    _check_tensors(folder, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, wanted, str(trainable))
    digest = hashlib.sha256((folder / CONFIG).read_bytes() + (folder / TENSORS).read_bytes()).hexdigest()[:16]
    return PeftFolder(settings, engine_adapters(tensors), digest)


def _read_settings(folder: Path) -> AdapterSettings:
    if not (folder / CONFIG).is_file():
        raise SpecError(f"{folder}: holds no {CONFIG}; give a folder that PEFT's save_pretrained wrote")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise SpecError(f"{folder / CONFIG}: is no JSON object; give a folder that PEFT's save_pretrained wrote")
    if config.get("peft_type") != "LORA":
        raise SpecError(f"{folder}: peft_type {config.get('peft_type')} is not supported; allowed: LORA")
    for key, value in config.items():
        if key not in (*_READ, *_BESIDE) and value and value not in _PLAIN.get(key, ()):
            raise SpecError(
                f"{folder}: {key} {value} in {CONFIG} is not supported; give plain LoRA adapters, of one rank and one alpha"
            )
    return AdapterSettings.parse(
        {"rank": config.get("r"), "alpha": config.get("lora_alpha"), "rank_stabilised": bool(config.get("use_rslora"))},
        source=str(folder / CONFIG),
    )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        why = (
            "holds a pickled adapter_model.bin, which is not read; save it"
            if pickled
            else f"holds no {TENSORS}; save it"
        )
        raise SpecError(f"{folder}: {why} by PEFT's save_pretrained with safe_serialization")
    try:
        with path.open("rb"), safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise SpecError(
            f"{path}: is damaged or cannot be read ({' '.join(str(error).split())}); copy it again"
        ) from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _READABLE:
            raise SpecError(f"{path}: '{name}' is of {tensor.dtype}, and adapters are read in fp64, fp32, fp16 or bf16")
        if not tensor.isfinite().all():
            raise SpecError(
                f"{path}: '{name}' has elements that are not finite; give adapters whose training did not diverge"
            )
    return tensors


def _check_tensors(
    folder: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], trainable: str
) -> None:
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing:
        raise SpecError(
            f"{folder}: lacks {_named(missing)} of the plan's adapters ({trainable}); plan with the targets that it has"
        )
    if extra:
        raise SpecError(
            f"{folder}: also holds {_named(extra)}, which the plan ({trainable}) does not train; plan with more targets"
        )
    for name in sorted(wanted):
        if found[name] != wanted[name]:
            raise SpecError(f"{folder}: is of another model: {name} has shape {found[name]}, not {wanted[name]}")


def _named(names: list[str]) -> str:
    rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + rest


def write_peft_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    settings: AdapterSettings,
    skeleton: Skeleton,
    trainable: Trainable,
    *,
    base_model: str | None,
) -> None:
    """Write adapters of `trainable` under PEFT's names into `folder`. `base_model`: the folder or name of what they are beside.

    Raises:
        OSError, SafetensorError: the folder cannot be written.
    """
    weights = dict(adapted_weight(path, skeleton, trainable) for path in engine_adapters(tensors))
    parameters = _as_parameters(weights)
    linears = {
        name.removesuffix(".weight"): transposed for name, transposed in weights.items() if name not in parameters
    }
    named = (name for name, _ in skeleton.model.named_parameters())
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rank_stabilised,
        "target_modules": target_modules(linears, (path for path, _ in skeleton.model.named_modules())),
        "target_parameters": target_modules(parameters, named) or None,
        "fan_in_fan_out": bool(linears) and all(linears.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS, metadata={"format": "pt"}
    )
    (folder / TENSORS).chmod(0o644)  # safetensors makes files for their user alone
    write_whole(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def adapted_weight(path: str, skeleton: Skeleton, trainable: Trainable) -> tuple[str, bool]:
    """Return the name of the weight beside the adapters at PEFT's `path`, and whether it holds inputs before outputs."""
    weights = expert_weights(trainable)
    experts, weight = expert_weight(path, weights) if weights else (path, "")
    module = skeleton.model.get_submodule(experts)
    if weight in module._parameters:
        return f"{experts}.{weight}", bool(getattr(module, "is_transposed", False))
    return f"{path}.weight", isinstance(module, Conv1D)


def _as_parameters(weights: Iterable[str]) -> list[str]:
    """Return those of `weights` that PEFT is to find as parameters: stacked experts, and beside them the linears of feed-forwards,
    whose names PEFT reads as those of experts (peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe)."""
    stacked = [name for name in weights if not name.endswith(".weight")]
    beside = [name for name in weights if name.endswith(tuple(f".{linear}.weight" for linear in FEED_FORWARD_MODULES))]
    return stacked + beside if stacked else []


def target_modules(paths: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Return the shortest endings by which PEFT finds the linears or weights at `paths`, and no other of `modules`."""
    adapted, others = set(paths), [f".{path}" for path in modules]
    found: set[str] = set()
    for path in sorted(adapted):
        parts = path.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found.add(next(end for end in endings if all(o[1:] in adapted for o in others if o.endswith(f".{end}"))))
    return sorted(found)
