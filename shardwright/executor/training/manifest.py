"""The manifest of a checkpoint: what it is of, and size and checksum of every file, so that damage is found before it is trained on.

CRC-32 finds every error of one bit and every burst of up to 32 bits (Peterson and Brown 1961, "Cyclic Codes for Error Detection").
It guards against damage, not against an attacker.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from shardwright.base import SpecError, read_json
from shardwright.costmodel import PlanFile
from shardwright.costmodel.phases import PhasesFile
from shardwright.executor.adapters import AdapterSettings
from shardwright.executor.parallel import LossScale
from shardwright.specs import NonNegativeInt, Spec

MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{6,})")
_READ_BYTES = 2**22
_UNREAD_CONFIG_KEYS = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache")


class Manifest(Spec):
    """The contents of a checkpoint. Its presence in a folder means that the folder is complete.

    `files`: bytes by name. `checksums`: CRC-32 by name; empty in a checkpoint that was written without. `own_checksum`: of the rest of
    the manifest. `trainable`: what is trained, and so what the checkpoint holds. Frozen weights are not in it: `frozen_from` says what they
    are made of again, "" where there are none. `adapters`: rank and scale of adapters. `loss_scale`: that of the next step in fp16.
    """

    kind: Literal["shardwright-checkpoint"] = "shardwright-checkpoint"
    schema_version: Literal[1] = 1
    step: NonNegativeInt
    model_name: str
    model_config_json: dict[str, Any]
    optimizer: str
    plan_digest: str
    data_digest: str
    seed: NonNegativeInt
    files: dict[str, NonNegativeInt]
    checksums: dict[str, NonNegativeInt] = Field(default_factory=dict)
    own_checksum: NonNegativeInt | None = None
    trainable: str = "all"
    frozen_from: str = ""
    adapters: AdapterSettings | None = None
    loss_scale: LossScale | None = None

    def written(self, files: dict[str, tuple[int, int]]) -> str:
        """Return the text of the manifest with these files: bytes and CRC-32 by name."""
        sizes, checksums = ({name: found[part] for name, found in sorted(files.items())} for part in (0, 1))
        filled = self.model_copy(update={"files": sizes, "checksums": checksums, "own_checksum": None})
        filled = filled.model_copy(update={"own_checksum": filled.checksum})
        return json.dumps(filled.model_dump(mode="json"), indent=1) + "\n"

    @property
    def checksum(self) -> int:
        """CRC-32 of everything but `own_checksum`."""
        # fields that manifests of earlier versions lack count where they say something
        added = {"trainable", "frozen_from", "adapters"} if self.trainable == "all" else set[str]()
        added |= {"loss_scale"} if self.loss_scale is None else set[str]()
        content = self.model_dump(mode="json", exclude={"own_checksum", *added})
        return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def plan_digest(plan_file: PlanFile) -> str:
    """Return a digest of a plan's model, training and choices, without its estimate and its cluster."""
    content = plan_file.model_dump(mode="json", include={"model_config_json", "training", "plan"})
    plan, training = content["plan"], content["training"]
    # what digests of earlier versions lack, so that their runs go on
    for part, name, plain in (
        (plan, "sync", not plan_file.plan.sync.approximate),
        (plan["offload"], "delayed_update", not plan_file.plan.offload.delayed_update),
        (training, "sequence_chunks", plan_file.training.sequence_chunks == 1),
    ):
        if plain:
            part.pop(name)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def phases_digest(phases: PhasesFile) -> str:
    """Return a digest of the plans of a run's phases and of the steps of each."""
    content = [(span.last_step, plan_digest(span.plan_file)) for span in phases.spans]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint of the highest step in `folder`, or None."""
    complete = complete_checkpoints(folder)
    return complete[-1] if complete else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the folders `step-NNNNNN` with a manifest, oldest first. A user's copies have other names."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*") if (path / MANIFEST).is_file()}
    return sorted(
        (path for path, named in found.items() if named), key=lambda path: int(path.name.removeprefix("step-"))
    )


def read_manifest(checkpoint: Path, plan_file: PlanFile) -> Manifest:
    """Return the manifest of a checkpoint that `plan_file`'s model can load. Reads no tensor and needs no process
    group.

    Raises:
        SpecError: no complete checkpoint, a foreign or damaged file in it, or one of another model or optimizer.
    """
    if not (checkpoint / MANIFEST).is_file():
        around = (checkpoint / "checkpoints", checkpoint, checkpoint.parent)
        nearest = next(filter(None, map(newest_checkpoint, around)), None) or "a folder such as checkpoints/step-000100"
        raise SpecError(f"{checkpoint}: is no complete checkpoint (no {MANIFEST}); give {nearest}")
    manifest = Manifest.parse(read_json(checkpoint / MANIFEST), source=str(checkpoint / MANIFEST))
    if manifest.own_checksum not in (None, manifest.checksum):
        raise SpecError(f"{checkpoint}: {MANIFEST} is damaged (its checksum differs); give another checkpoint")
    _check_files(checkpoint, manifest)
    difference = _config_difference(manifest.model_config_json, plan_file.model_config_json)
    if difference:
        raise SpecError(
            f"{checkpoint}: is of another model, {manifest.model_name}, not {plan_file.model_name} ({difference}); give a checkpoint of this plan's model"
        )
    method = str(plan_file.training.method)
    if manifest.optimizer != method:
        raise SpecError(
            f"{checkpoint}: was written with optimizer {manifest.optimizer}, and the plan trains with {method}; plan with {manifest.optimizer}"
        )
    if manifest.trainable != str(plan_file.training.trainable):
        raise SpecError(
            f"{checkpoint}: holds what is trained with trainable {manifest.trainable}, and the plan trains {plan_file.training.trainable}; "
            f"plan with --trainable {manifest.trainable}"
        )
    return manifest


def read_growing(checkpoint: Path, plan_file: PlanFile, grown_from: PlanFile | None) -> tuple[Manifest, bool]:
    """Return the manifest of a checkpoint, as `read_manifest`, and whether it is of `grown_from`, the smaller model of the phase before.

    Raises:
        SpecError: as `read_manifest`, for `plan_file`.
    """
    try:
        return read_manifest(checkpoint, plan_file), False
    except SpecError:
        if grown_from is None:
            raise
        try:
            return read_manifest(checkpoint, grown_from), True
        except SpecError:
            pass
        raise


def damaged_file(checkpoint: Path, manifest: Manifest, *, part: int = 0, parts: int = 1) -> str | None:
    """Return what is wrong with the first file whose content is not what was written, in one line; None where all are whole.

    Of `parts` readers the one numbered `part` reads every `parts`-th file.
    """
    for name in sorted(manifest.checksums)[part::parts]:
        try:
            found = checksum(checkpoint / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
        if found != manifest.checksums[name]:
            return f"{name} is damaged (its checksum differs from the manifest's)"
    return None


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file.

    Raises:
        OSError: it cannot be read.
    """
    found = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            found = zlib.crc32(block, found)
    return found


def sync(paths: Iterable[Path]) -> None:
    """Wait until files or folders are on the disk, so that a power cut cannot take them back.

    Raises:
        OSError: the disk is full or failed.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_files(checkpoint: Path, manifest: Manifest) -> None:
    present = {file.name: file.stat().st_size for file in checkpoint.iterdir() if file.name != MANIFEST}
    for name in sorted(present.keys() - manifest.files.keys()):
        raise SpecError(
            f"{checkpoint}: holds {name}, which is no part of the checkpoint and is not read; remove it or give another checkpoint"
        )
    for name, size in sorted(manifest.files.items()):
        if present.get(name) != size:
            found = f"{present[name]} bytes" if name in present else "absent"
            raise SpecError(f"{checkpoint}: {name} is damaged ({found}, not {size} bytes); give another checkpoint")


def _config_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    for key in sorted(theirs.keys() | ours.keys()):
        if key not in _UNREAD_CONFIG_KEYS and theirs.get(key) != ours.get(key):
            return f"{key} {theirs.get(key)}, not {ours.get(key)}"
    return ""
