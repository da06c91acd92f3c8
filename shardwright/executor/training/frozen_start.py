"""What a run beside frozen weights starts from: the source of the frozen ones, and its adapters."""

from pathlib import Path
from typing import NamedTuple

import torch

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.adapters import (
    AdapterSettings,
    DrawnAdapters,
    InitialAdapters,
    ReadAdapters,
    read_peft_folder,
)
from shardwright.executor.model import Skeleton, read_skeleton
from shardwright.executor.weights import read_weights_folder

from .manifest import Manifest, read_manifest


def frozen_content(source: str) -> str:
    """Return what `frozen_from` gave without the place of a folder, so that it may be moved."""
    return source.rpartition(" (")[2] if source.startswith("init-from") else source


class AdapterStart(NamedTuple):
    """`digest`: of what the adapters start from."""

    initial: InitialAdapters
    digest: str


def frozen_from(plan_file: PlanFile, options: RunOptions) -> str:
    """Return what the frozen weights of a run are made of, "" where it has none.

    Raises:
        SpecError: the folder that they come from cannot be read.
    """
    if plan_file.training.trainable.trains_all:
        return ""
    if options.init_from is None:
        return f"seed {options.seed}"
    return f"init-from {options.init_from} ({read_weights_folder(options.init_from).digest})"


def adapter_settings(
    plan_file: PlanFile, options: RunOptions, skeleton: Skeleton | None = None
) -> AdapterSettings | None:
    """Return rank and scale of a run's adapters, None where it has none: those of the options, or of what they start from.

    Raises:
        SpecError: options name adapters and the plan has none, or their folder or checkpoint is not of the plan.
    """
    trainable = plan_file.training.trainable
    if not trainable.has_adapters:
        for name, given in (("adapters_from", options.adapters_from), ("lora_alpha", options.lora_alpha)):
            if given is not None:
                raise SpecError(
                    f"{name} {given} is of adapters, and the plan trains {trainable}; plan with --trainable lora"
                )
        return None
    if options.adapters_from is not None:
        return read_peft_folder(options.adapters_from, plan_file, skeleton or read_skeleton(plan_file)).settings
    if options.lora_alpha is None and options.resume_from is not None:
        held = read_manifest(options.resume_from, plan_file).adapters
        if held is not None:
            return held
    return AdapterSettings(rank=trainable.rank, alpha=options.lora_alpha or trainable.rank)


def adapter_start(plan_file: PlanFile, options: RunOptions, device: torch.device) -> AdapterStart | None:
    """Return what the adapters of a run start from, None where it has none.

    Raises:
        SpecError: as `adapter_settings`.
    """
    settings = adapter_settings(plan_file, options)
    if settings is None:
        return None
    if options.adapters_from is None:
        return AdapterStart(DrawnAdapters(settings, options.seed, device), f"drawn, alpha {settings.alpha:g}")
    read = read_peft_folder(options.adapters_from, plan_file, read_skeleton(plan_file))
    return AdapterStart(ReadAdapters(read.settings, read.pairs, device), read.digest)


def check_start(checkpoint: Path, manifest: Manifest, plan_file: PlanFile, options: RunOptions) -> None:
    """Check that a run that continues from a checkpoint makes the same frozen weights, and scales adapters alike.

    Raises:
        SpecError: it does not; says which options do.
    """
    own = frozen_from(plan_file, options)
    if frozen_content(manifest.frozen_from) != frozen_content(own):
        raise SpecError(
            f"{checkpoint}: its frozen weights are made from {manifest.frozen_from}, and this run's from {own}; give "
            f"--{manifest.frozen_from.partition(' (')[0]}"
        )
    if plan_file.training.trainable.trains_all and options.init_from is not None and checkpoint == options.resume_from:
        raise SpecError("init_from and resume_from both say what to start from; give one of them")
    settings = adapter_settings(plan_file, options)
    if manifest.adapters != settings and manifest.adapters is not None and settings is not None:
        raise SpecError(
            f"{checkpoint}: its adapters have alpha {manifest.adapters.alpha:g} (scale {manifest.adapters.scale:g}), and this run's "
            f"{settings.alpha:g} (scale {settings.scale:g}); give --lora-alpha {manifest.adapters.alpha:g}"
        )
