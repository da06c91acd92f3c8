"""The rates of a CPU host that `ranks` processes share, and the file that stores them."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from shardwright.base import SpecError, read_json, write_whole
from shardwright.specs import NonNegativeFloat, PositiveFloat, PositiveInt, Spec

_LEAST_CPU_SHARE = 0.85


class CpuSetting(Spec):
    """The conditions on which the rates depend. Rates of another setting are measured anew."""

    cpu: str
    cores: PositiveInt
    ranks: PositiveInt
    torch: str

    @property
    def threads(self) -> int:
        """Threads of each rank."""
        return max(1, self.cores // self.ranks)

    @property
    def cpu_share(self) -> float:
        """Share of a core for each thread: less than one where there are more threads than cores."""
        return min(1.0, self.cores / (self.ranks * self.threads))


class CpuRates(Spec):
    """Rates of one rank while all ranks of the setting do the same.

    `fp32_flops_per_s`, `bf16_flops_per_s`: linear layers forward and backward at typical sizes of training; a
    multiply-add counts as two. `*_attention_flops_per_s`: fused causal attention, counted in the same way; only the
    causal half counts. `elementwise_bytes_per_s`: norms, additions and activations, by the bytes that the cost model
    counts for them. `copy_bytes_per_s`: a large copy; bytes read and bytes written both count. `dispatch_seconds`: one
    small operation under autograd, per direction. `link_*`: gloo between the ranks, as in `fit_link`; None for one
    rank. `process_bytes`: a rank's resident memory before its first tensor. `cpu_share`: CPU time of the threads over
    the elapsed time of the linear layers.
    """

    kind: Literal["shardwright-cpu-rates"] = "shardwright-cpu-rates"
    schema_version: Literal[1] = 1
    setting: CpuSetting
    date: str
    fp32_flops_per_s: PositiveFloat
    bf16_flops_per_s: PositiveFloat
    fp32_attention_flops_per_s: PositiveFloat
    bf16_attention_flops_per_s: PositiveFloat
    elementwise_bytes_per_s: PositiveFloat
    copy_bytes_per_s: PositiveFloat
    dispatch_seconds: PositiveFloat
    link_bytes_per_s: PositiveFloat | None
    link_latency_seconds: NonNegativeFloat | None
    process_bytes: PositiveFloat
    cpu_share: PositiveFloat

    @property
    def disturbed(self) -> bool:
        """Whether other programs took a large part of the CPU during the measurement."""
        return self.cpu_share < _LEAST_CPU_SHARE * self.setting.cpu_share


def remembered_rates(setting: CpuSetting) -> CpuRates | None:
    """Return the rates measured earlier in this setting, or None where no complete ones can be read."""
    try:
        path = _path(setting)
        rates = CpuRates.parse(read_json(path), source=str(path))
    except SpecError:
        return None
    return rates if rates.setting == setting else None


def remember_rates(rates: CpuRates) -> None:
    """Write the rates completely or not at all. Disturbed rates are not stored.

    Where the folder can't be written, the next run measures again.
    """
    if rates.disturbed:
        return
    path = _path(rates.setting)
    with suppress(OSError, SpecError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(rates.model_dump(mode="json"), indent=1, allow_nan=False))


def _path(setting: CpuSetting) -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    digest = hashlib.sha256(setting.model_dump_json().encode()).hexdigest()[:16]
    return folder / "shardwright" / f"cpu-rates-{digest}.json"
