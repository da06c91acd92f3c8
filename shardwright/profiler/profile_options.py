"""The measurements that a user requests."""

import math
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from shardwright.base import SpecError, nearest
from shardwright.catalog.huggingface import load_model
from shardwright.specs import Format, NonNegativeFloat, PositiveFloat, PositiveInt, Spec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .selection import FIGURES, chosen_operations

FORMATS: tuple[Format, ...] = ("fp32", "tf32", "fp16", "bf16", "fp8")
ACTIVATION_FORMATS = ("fp32", "fp16", "bf16")
_SUSTAINED_SHARE_OF_BUDGET, _MOST_SUSTAINED_SECONDS = 0.03, 10.0


class ProfileOptions(Spec):
    """Options of one profile, the same on every rank.

    `formats`: None for those that the device's plans need. `model`: a reference of `load_model`. The shapes and layers
    of that model are measured with sequences of `seq_len` tokens, `micro_batch` at a time. `only`: see
    `chosen_operations`. `disk`: a folder on the disk to measure. `sustained_seconds`: how long one matmul is
    repeated for its sustained rate; 0 for not at all, None for a few seconds on a GPU. `fresh`: discard the
    measurements of a run that was cut short.
    """

    budget_seconds: PositiveFloat = 180.0
    formats: tuple[Format, ...] | None = Field(default=None, min_length=1)
    model: str | None = None
    seq_len: PositiveInt | None = None
    micro_batch: PositiveInt = 1
    only: tuple[str, ...] = ()
    disk: Path | None = None
    sustained_seconds: NonNegativeFloat | None = None
    fresh: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.model is not None and self.seq_len is None:
            raise ValueError("--model needs a sequence length: give --seq-len as well")
        if self.model is None and self.seq_len is not None:
            raise ValueError("--seq-len needs a model: give --model as well")
        if self.disk is not None and not self.disk.is_dir():
            raise ValueError(f"--disk {self.disk}: is not a folder; name one on the disk to measure")
        if self.disk is None and self.operations == {"disk_read", "disk_write"}:
            raise ValueError("a disk is measured in a folder: give --disk FOLDER as well")
        if self.operations == {"cast"} and self.formats and "fp8" not in self.formats:
            raise ValueError("casts are measured with the matmuls that read them: give --precision fp8 as well")
        if self.sustained_seconds and FIGURES not in self.operations:
            raise ValueError("a sustained rate is one of the figures: add figures to --only")
        if self.sustained_seconds is not None and not self.sustained_seconds < self.budget_seconds:
            enough = math.ceil(self.sustained_seconds / 30 + 1) * 60
            raise ValueError(
                f"--sustained {self.sustained_seconds:g} does not fit into --budget {self.budget_seconds:g}: give --budget {enough}"
            )
        if self.model is None and self.operations == {"layers"}:
            raise ValueError("layers need a model: give --model and --seq-len as well")
        return self

    @property
    def operations(self) -> frozenset[str]:
        return chosen_operations(self.only)

    def formats_on(self, device_type: str) -> tuple[Format, ...]:
        """Return the requested formats, or those that plans for the device use by default or may use for matmuls.

        fp8 is one of them on a CPU where casts are asked for by name.
        """
        if self.formats or device_type != "cpu":
            return self.formats or ("bf16", "tf32", "fp8")
        return ("fp32", "bf16", "fp8") if self.only and "cast" in self.operations else ("fp32", "bf16")

    def sustained_on(self, device_type: str) -> float:
        """Return the seconds of sustained load: as requested, else a small share of the budget on a GPU.

        The clock of a CPU depends on what else runs on it, so that it is only measured on request.
        """
        if self.sustained_seconds is not None or device_type == "cpu":
            return self.sustained_seconds or 0.0
        return min(_MOST_SUSTAINED_SECONDS, _SUSTAINED_SHARE_OF_BUDGET * self.budget_seconds)

    def asked(self) -> dict[str, str]:
        """Return by option the values that distinguish one run from another."""
        values: dict[str, Any] = {
            "--precision": ",".join(self.formats) if self.formats else None,
            "--model": self.model,
            "--seq-len": self.seq_len,
            "--micro-batch": self.micro_batch if self.model else None,
            "--only": ",".join(sorted(self.operations)) if self.only else None,
            "--disk": self.disk,
            "--sustained": self.sustained_seconds,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    def model_spec(self) -> ModelSpec | None:
        """Read the model.

        Raises:
            SpecError: there is no model of that name.
        """
        return load_model(self.model) if self.model else None

    def training(self, format: str) -> TrainingSpec:
        """Return one step of the model at the requested length."""
        values = {"seq_len": self.seq_len, "global_batch": self.micro_batch, "precision": {"compute": format}}
        return TrainingSpec.parse(values, source="profile options")


def read_formats(words: list[str] | None) -> tuple[Format, ...] | None:
    """Return formats by name. One word may hold several, with commas between.

    Raises:
        SpecError: a word is no format; names the nearest one.
    """
    if not words:
        return None
    known: dict[str, Format] = {name: name for name in FORMATS}
    given = [part.strip().lower() for word in words for part in word.split(",")]
    for name in given:
        if name not in known:
            raise SpecError(f"--precision {name}: is not one of {', '.join(FORMATS)}.{nearest(name, FORMATS)}")
    return tuple(dict.fromkeys(known[name] for name in given))
