"""What a CPU host does per second when `ranks` processes share it, and the file that remembers it."""

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
    """What the rates depend on; rates of another setting are measured anew."""

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
        """What each thread can get of a core: less than one where there are more ranks than cores."""
        return min(1.0, self.cores / (self.ranks * self.threads))


class CpuRates(Spec):
    """Rates of one rank while all ranks of the setting do the same.

    `fp32_flops_per_s`, `bf16_flops_per_s`: linear layers forward and backward at training-like sizes, a multiply-add
    being two. `*_attention_flops_per_s`: fused causal attention likewise, the causal half counted. `elementwise_bytes_per_s`:
    norms, additions and activations, by the bytes that the cost model counts for them. `copy_bytes_per_s`: a large copy,
    bytes read and bytes written both counted. `dispatch_seconds`: one small operation under autograd, per direction. `link_*`: gloo between the ranks, in the terms of
    `fit_link`; None where there is one rank. `process_bytes`: a rank's resident memory before its first tensor.
    `cpu_share`: CPU time that the threads got, of the time that the linear layers took.
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
        """Whether other programs took a good part of the CPU meanwhile."""
        return self.cpu_share < _LEAST_CPU_SHARE * self.setting.cpu_share


def remembered_rates(setting: CpuSetting) -> CpuRates | None:
    """The rates measured earlier in this setting; None where there are none that can be read whole."""
    try:
        path = _path(setting)
        rates = CpuRates.parse(read_json(path), source=str(path))
    except SpecError:
        return None
    return rates if rates.setting == setting else None


def remember_rates(rates: CpuRates) -> None:
    """Write the rates whole or not at all; rates that were disturbed are not worth remembering.

    A folder that cannot be written only costs the next run a measurement.
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
